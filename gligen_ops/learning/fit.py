"""The loop around any training: Adam, one-cycle learning rate, moving average, and going on after an
interruption as if there had been none."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

SHOWN = 10  # steps from one figure of the progress bar to the next
SAVED = 200  # steps from one state on disk to the next


def fit(
    file: Path,
    modules: nn.Module,
    groups: list[dict],
    loss: Callable[[int], Tensor],
    steps: int,
    every: Callable[[int], None] = lambda step: None,
    ema: float = 0.999,
) -> float:
    """Train `modules` and leave the moving average of their weights in them.

    file: where the state is kept, for the next call to go on. groups: of parameters, with "lr".
    loss: of a step, its randomness torch's own, which is seeded by the step. Returns the seconds it
    took in all.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    parameters = [p for g in groups for p in g["params"]]
    device = parameters[0].device
    optimiser = torch.optim.AdamW(
        groups, betas=(0.9, 0.99), weight_decay=1e-3, fused=device.type == "cuda"
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [g["lr"] for g in groups],
        total_steps=steps,
        pct_start=0.08,
        div_factor=20,
    )
    average = [p.detach().clone() for p in parameters]
    start, seconds = 0, 0.0
    if file.exists():
        state = torch.load(file, map_location=device, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        average, start, seconds = state["average"], state["step"], state["seconds"]

    def save(step: int) -> None:
        torch.save(
            {
                "modules": modules.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "average": average,
                "step": step,
                "seconds": seconds,
            },
            file.with_suffix(".tmp"),
        )
        file.with_suffix(".tmp").replace(file)

    smooth = None
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=file.stem, mininterval=5)
    for step in bar:
        clock = time.perf_counter()
        torch.manual_seed(step)
        value = loss(step)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                average, [p.detach() for p in parameters], 1 - min(ema, step / (step + 10))
            )
        seconds += time.perf_counter() - clock
        if step % SHOWN == 0:  # a GPU is waited for no oftener than this
            smooth = value.item() if smooth is None else 0.8 * smooth + 0.2 * value.item()
            bar.set_postfix(loss=f"{smooth:.4f}")
        every(step)
        if (step + 1) % SAVED == 0 or step + 1 == steps:
            save(step + 1)
    with torch.no_grad():
        for p, a in zip(parameters, average, strict=True):
            p.copy_(a)
    return seconds
