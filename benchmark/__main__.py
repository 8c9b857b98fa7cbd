"""Times grounding against what it is built on: `python3 dev.py bench`.

Plain sampling, the host's own GLIGEN, diffusers' GLIGEN and this pack run in turn in one process, on
random weights of Stable Diffusion's shapes. Seconds are of this machine in this hour: what counts are
the ratios to plain sampling in the same round. The last results of each setting and machine are kept in
docs/performance.json, and docs/performance.md and its plots are made of them.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import product

import torch

from devtools import pack
from devtools.environment import ROOT

from . import report

OUTPUT = ROOT / "output"
DEFAULTS = {
    "cpu": {
        "shapes": ["sd15"],
        "sizes": [256],
        "batches": [1],
        "dtypes": ["float32"],
        "kinds": False,
        "compile": False,
        "trace": False,
    },
    "cuda": {
        "shapes": ["sd15", "sdxl"],
        "sizes": [512, 1024],
        "batches": [1, 8],
        "dtypes": ["float16", "bfloat16"],
        "kinds": True,
        "compile": True,
        "trace": True,
    },
}


def main() -> None:
    arguments = parsed()
    pack.import_host(arguments.device)
    if arguments.refresh:
        results = pack.load("benchmark.refresh").curve(arguments.refresh)
        show("refresh", f"{arguments.refresh} layouts", results, arguments.files)
        return
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: there is no CUDA device here.")
    for setting in settings(arguments):
        race, trace = (pack.load(f"benchmark.{name}") for name in ("race", "trace"))
        extent = f"{setting.steps} steps, {arguments.rounds} rounds"
        title = report.title(setting, device, extent)
        wanted = arguments.kinds, arguments.compile, arguments.only
        results = race.run(setting, arguments.rounds, device, *wanted)
        show("races", title, results, arguments.files)
        if arguments.trace:
            title = report.title(setting, device, "one step")
            show("traces", title, trace.run(setting, OUTPUT), arguments.files)


def parsed() -> argparse.Namespace:
    """The command line, with what a device does unless told otherwise."""
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__.split("\n")[0])
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu",
                        help="cuda does all of it: each shape, size, batch, dtype, kind")  # fmt: skip
    parser.add_argument("--shapes", nargs="+", choices=["sd15", "sdxl"])
    parser.add_argument("--sizes", nargs="+", type=int, help="pixels")
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--steps", type=int, default=20, help="of a run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[],
                        help="who takes part beside plain sampling, by a word of the name")  # fmt: skip
    parser.add_argument("--kinds", action=switch, help="other kinds of grounding too")
    parser.add_argument("--compile", action=switch, help="with the TorchCompileModel node too")
    parser.add_argument("--trace", action=switch, help="profile a step; traces go to output/")
    parser.add_argument("--refresh", type=int, metavar="LAYOUTS",
                        help="measure instead what refresh_every loses, with the demo model")  # fmt: skip
    parser.add_argument("--files", action=switch, default=True, help="keep the results in docs/")
    arguments = parser.parse_args()
    for name, value in DEFAULTS[arguments.device].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def settings(arguments: argparse.Namespace) -> Iterator:
    setting = pack.load("benchmark.contestants").Setting
    a = arguments
    for shape, size, batch, dtype in product(a.shapes, a.sizes, a.batches, a.dtypes):
        yield setting(shape, size, batch, a.steps, getattr(torch, dtype))


def show(part: str, title: str, results: dict, files: bool) -> None:
    print(f"\n{title}\n\n{report.table(part, results)}\n", flush=True)
    if files:
        report.keep(part, title, results)


if __name__ == "__main__":
    main()
