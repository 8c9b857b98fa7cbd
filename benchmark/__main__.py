"""Times grounding against what it is built on: `python3 dev.py bench`.

Plain sampling, the host's own GLIGEN, diffusers' GLIGEN and this pack run in turn in one process, on
random weights of Stable Diffusion's shapes. Seconds are of this machine in this hour: what counts are
the ratios to plain sampling in the same round. Results go to docs/performance.json, the table and the
plot made of all of them to docs/performance.md and docs/performance.png.
"""

import argparse
import statistics
import time

import torch

from devtools import pack

from . import report

TAUS = (0.0, 0.3, 1.0)
OTHERS = ("text and image box", "keypoints", "depth map")


def contestants_of(setting, peers: bool, kinds: bool):
    """All who take part, those of one kind sharing their weights."""
    contestants = pack.load("benchmark.contestants")
    host = contestants.Host(setting)
    text = host.gligen("text box")
    tensors = contestants.tensors_of(text.model.gligen)
    found = [contestants.Plain(host)]
    if setting.shape == "sd15":
        found.append(contestants.Core(host, tensors))
    found += [contestants.Pack(host, "text box", tau, text) for tau in TAUS]
    if kinds:
        found += [contestants.Pack(host, kind) for kind in OTHERS]
    if peers and setting.shape == "sd15":
        found.append(contestants.Diffusers(host, 1.0))
    return found, contestants.unet_of


def race(found: list, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each contestant in each round. The order turns round by round."""
    meters = pack.load("benchmark.meters")
    seconds = {c.name: [] for c in found}
    for number in range(rounds):
        turn = number % len(found)
        for contestant in found[turn:] + found[:turn]:
            with meters.stopwatch(device) as elapsed:
                contestant()
            seconds[contestant.name].append(elapsed())
            print(f"round {number + 1}: {contestant.name}: {seconds[contestant.name][-1]:.1f} s")
    return seconds


def run(setting, rounds: int, device: torch.device, peers: bool, kinds: bool) -> dict:
    """The results of one setting: of each contestant its ratios to plain sampling, and what was
    counted."""
    found, unet_of = contestants_of(setting, peers, kinds)
    meters = pack.load("benchmark.meters")
    costs = {}
    for contestant in found:  # which warms them up as well
        started = time.perf_counter()
        costs[contestant.name] = meters.cost(contestant, unet_of(contestant))
        print(f"counted: {contestant.name} ({time.perf_counter() - started:.0f} s)", flush=True)
    seconds = race(found, rounds, device)
    plain, its_cost = seconds["plain"], costs["plain"]
    results = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, plain, strict=True)]
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shapes", nargs="+", default=["sd15"], choices=["sd15", "sdxl"])
    parser.add_argument("--sizes", nargs="+", type=int, help="pixels (CPU: 256; GPU: 512 1024)")
    parser.add_argument("--batches", nargs="+", type=int, help="(CPU: 1; GPU: 1 8)")
    parser.add_argument("--steps", type=int, default=10, help="of a run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--no-peers", action="store_true", help="leave diffusers out")
    parser.add_argument("--kinds", action="store_true", help="other kinds of grounding too")
    parser.add_argument("--no-files", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    pack.import_host(arguments.device)
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    dtype = getattr(torch, arguments.dtype or ("float16" if on_gpu else "float32"))
    contestants = pack.load("benchmark.contestants")
    for shape in arguments.shapes:
        for size in arguments.sizes or ([512, 1024] if on_gpu else [256]):
            for batch in arguments.batches or ([1, 8] if on_gpu else [1]):
                setting = contestants.Setting(shape, size, batch, arguments.steps, dtype)
                peers, kinds = not arguments.no_peers, arguments.kinds
                results = run(setting, arguments.rounds, device, peers, kinds)
                title = report.title(setting, device, arguments.rounds)
                print(f"\n{title}\n\n{report.table(results)}\n", flush=True)
                if not arguments.no_files:
                    report.keep(title, results)


if __name__ == "__main__":
    main()
