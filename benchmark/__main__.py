"""Times grounding against what it is built on: `python3 dev.py bench`.

Plain sampling, the host's own GLIGEN, diffusers' GLIGEN and this pack run in turn in one process, on
random weights of Stable Diffusion's shapes. Seconds are of this machine in this hour: what counts are
the ratios to plain sampling in the same round. The last results of each setting and machine are kept in
docs/performance.json, and docs/performance.md and its plots are made of them.
"""

import argparse

import torch

from devtools import pack

from . import report


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shapes", nargs="+", default=["sd15"], choices=["sd15", "sdxl"])
    parser.add_argument("--sizes", nargs="+", type=int, help="pixels (CPU: 256; GPU: 512 1024)")
    parser.add_argument("--batches", nargs="+", type=int, help="(CPU: 1; GPU: 1 8)")
    parser.add_argument("--steps", type=int, default=20, help="of a run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--kinds", action="store_true", help="other kinds of grounding too")
    parser.add_argument("--refresh", type=int, metavar="LAYOUTS",
                        help="measure instead what refresh_every loses, with the demo model")  # fmt: skip
    parser.add_argument("--no-files", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    pack.import_host(arguments.device)
    if arguments.refresh:
        results = pack.load("benchmark.refresh").curve(arguments.refresh)
        print(f"\n{report.refresh_table(results)}")
        if not arguments.no_files:
            report.keep("refresh", f"{arguments.refresh} layouts", results)
        return
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    dtype = getattr(torch, arguments.dtype or ("float16" if on_gpu else "float32"))
    contestants, race = (pack.load(f"benchmark.{name}") for name in ("contestants", "race"))
    for shape in arguments.shapes:
        for size in arguments.sizes or ([512, 1024] if on_gpu else [256]):
            for batch in arguments.batches or ([1, 8] if on_gpu else [1]):
                setting = contestants.Setting(shape, size, batch, arguments.steps, dtype)
                results = race.run(setting, arguments.rounds, device, arguments.kinds)
                title = report.title(setting, device, arguments.rounds)
                print(f"\n{title}\n\n{report.table(results)}\n", flush=True)
                if not arguments.no_files:
                    report.keep("races", title, results)


if __name__ == "__main__":
    main()
