"""The contestants in turn, and what each took.

Names as the repository is a package inside ComfyUI (see __main__.py).
"""

import random
import statistics
import time

import comfy.model_management
import torch

from . import meters, shapes
from .contestants import Contestant, Host, Setting, core, diffusers, plain, tensors_of, this_pack

TAUS = (0.0, 0.3, 1.0)
OTHERS = ("text and image box", "keypoints", "depth map")
REFRESH = 3


def contestants_of(setting: Setting, kinds: bool, compiled: bool) -> list[Contestant]:
    """All who take part, those of one kind sharing their weights."""
    host = Host(setting)
    text = host.gligen("text box")
    found = [plain(host)]
    if setting.shape != "sdxl":
        found.append(core(host, tensors_of(text.net)))
    if setting.shape == "sd15":
        unet = shapes.diffusers_unet(setting.dtype, comfy.model_management.get_torch_device())
        found += [diffusers(host, unet, grounded) for grounded in (False, True)]
    found += [this_pack(host, "text box", tau, text) for tau in TAUS]
    found.append(this_pack(host, "text box", 1.0, text, REFRESH))
    if compiled:
        found += [plain(host, compiled), this_pack(host, "text box", 1.0, text, compiled=True)]
    if kinds:
        found += [this_pack(host, kind) for kind in OTHERS]
    return found


def race(found: list[Contestant], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, in another order each time."""
    seconds = {c.name: [] for c in found}
    for number in range(rounds):
        for contestant in random.Random(number).sample(found, len(found)):
            with meters.stopwatch(device) as elapsed:
                contestant.run()
            seconds[contestant.name].append(elapsed())
            last = seconds[contestant.name][-1]
            print(f"round {number + 1}: {contestant.name}: {last:.1f} s", flush=True)
    return seconds


def run(
    setting: Setting, rounds: int, device: torch.device, kinds=False, compiled=False, only=()
) -> dict[str, dict]:
    """The results of one setting: of each contestant its ratios to plain sampling, and what was
    counted. only: words of the names of those that take part beside plain sampling; none: all."""
    found = contestants_of(setting, kinds, compiled)
    found = [c for c in found if not only or c.name == "plain" or any(w in c.name for w in only)]
    # torch.compile gives up for good what it first meets under the meters.
    for contestant in found:
        if contestant.compiled:
            contestant.run()
    costs = {}
    for contestant in found:  # which warms them up as well
        started = time.perf_counter()
        costs[contestant.name] = meters.cost(contestant.run, contestant.unet)
        print(f"counted: {contestant.name} ({time.perf_counter() - started:.0f} s)", flush=True)
    seconds = race(found, rounds, device)
    base, its_cost = seconds["plain"], costs["plain"]
    results = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, base, strict=True)]
        results[name] = {
            "seconds": statistics.median(own),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "flops": costs[name].flops / its_cost.flops,
            "extra_memory_mb": (costs[name].peak - its_cost.peak) / 2**20,
            "calls_a_step": costs[name].calls / setting.steps,
        }
    return results
