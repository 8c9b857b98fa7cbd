"""A step of a run under PyTorch's profiler: whether the device has to be waited for, and for how long it
idles.

Names as the repository is a package inside ComfyUI (see __main__.py).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from .contestants import Host, Setting, plain, this_pack

STEP = "step of the sampler"
SKIPPED = 2  # steps, in which what a run computes once is made
READ = "aten::_local_scalar_dense"


def run(setting: Setting, folder: Path) -> dict[str, dict[str, float]]:
    """Of plain sampling and of text boxes; the traces go to the folder, for ui.perfetto.dev."""
    host = Host(replace(setting, steps=SKIPPED + 2))
    found = {"plain": plain(host), "grounded": this_pack(host, "text box")}
    results = {}
    for name, contestant in found.items():
        contestant.run()  # what only a first run does is not of interest
        file = folder / f"trace_{name}.json"
        results[contestant.name] = record(contestant.run, contestant.unet, file)
    return results


class Marks:
    """A hook of the UNet that marks its third call, up to the beginning of the fourth, and has the
    profiler record it alone."""

    def __init__(self, profiler: profile):
        self.profiler, self.calls, self.range = profiler, 0, None

    def __call__(self, *_) -> None:
        if self.range is not None:
            self.range.__exit__(None, None, None)
            self.range = None
        if self.calls:
            self.profiler.step()
        if self.calls == SKIPPED:
            self.range = record_function(STEP)
            self.range.__enter__()
        self.calls += 1


def record(run: Callable[[], object], unet: torch.nn.Module, file: Path) -> dict[str, float]:
    """The figures of the third step of a run, whose trace goes to the file."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    one_step = schedule(wait=SKIPPED - 1, warmup=1, active=1, repeat=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    with profile(
        activities=activities,
        schedule=one_step,
        acc_events=True,
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(file)),
    ) as profiler:
        hook = unet.register_forward_pre_hook(Marks(profiler))
        try:
            run()
        finally:
            hook.remove()
    return figures(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])


def figures(events: list[dict]) -> dict[str, float]:
    """Of the marked step. waits: how often the CPU waited for the device, or read a value from a tensor
    where there is no GPU. kernels: those that the step started. busy: their share of the time from the
    first to the last. gap_us: the longest time in which none ran. The last three are of a GPU only."""
    step = next(e for e in events if e.get("name") == STEP and e.get("cat") == "user_annotation")
    inside = [
        e
        for e in events
        if "dur" in e and step["ts"] <= e["ts"] < step["ts"] + step["dur"] and e is not step
    ]
    calls = [e for e in inside if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    if not calls:
        return {"waits": sum(e["name"] == READ for e in inside)}
    started = {e["args"].get("correlation") for e in calls}
    kernels = sorted(
        (e["ts"], e["ts"] + e["dur"])
        for e in events
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
        and e["args"].get("correlation") in started
    )
    end, busy, gap = kernels[0][0], 0.0, 0.0
    for begins, ends in kernels:
        gap = max(gap, begins - end)
        busy += max(0.0, ends - max(begins, end))
        end = max(end, ends)
    return {
        "waits": sum("Synchronize" in e["name"] for e in calls),
        "kernels": len(kernels),
        "busy": busy / (end - kernels[0][0]),
        "gap_us": gap,
    }
