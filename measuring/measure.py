"""Measures the demo model on scenes never trained on, each of its GLIGENs by what it is for.

`python3 dev.py measure-demo` runs the pack's own nodes in ComfyUI, writes docs/demo.json, tables to the
screen, and the pictures docs/demo_NAME.png and docs/demo_gates.png. With names it measures only those.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from .figures import DOCS, FILE, ROOT, TAUS, table, write_page
from .measures import MEASURES, Demo

SHOWN = 6


def figures_of(demo, measure, scenes: list, name: str) -> dict[str, dict[str, float]]:
    """For each τ the mean of each of its figures."""
    results = {}
    for tau in TAUS:
        values: dict[str, list[float]] = {}
        for seed, scene in enumerate(tqdm(scenes, desc=f"{name}, τ = {tau:g}", mininterval=5)):
            positive, *latent = measure.grounded(demo, scene)
            picture = demo.sample(positive, tau, seed, *latent)
            for figure, more in measure.figures(demo, picture, scene).items():
                values.setdefault(figure, []).extend(map(float, more))
        results[f"{tau:g}"] = {f: float(np.mean(v)) for f, v in values.items() if v}
        results[f"{tau:g}"]["things"] = max(map(len, values.values()))
    return results


def sheet(demo, measure, scenes: list) -> Image.Image:
    """A column for each scene: what is given, then a picture for each τ."""
    margin, side = 74, measure.given(scenes[0]).width
    rows = ["given", *(f"tau {tau:g}" for tau in TAUS)]
    whole = Image.new("RGB", (margin + side * len(scenes), side * len(rows)), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(20)
    for row, name in enumerate(rows):
        draw.text((margin / 2, (row + 0.5) * side), name, "black", font, anchor="mm")
    for column, scene in enumerate(scenes):
        positive, *latent = measure.grounded(demo, scene)
        pictures = [demo.sample(positive, tau, column, *latent) for tau in TAUS]
        images = [measure.given(scene), *(measure.over(scene, picture) for picture in pictures)]
        for row, image in enumerate(images):
            whole.paste(image, (margin + column * side, row * side))
    return whole


def gate_plot(log: Path, file: Path) -> None:
    """tanh(γ) of each layer over the training steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, constrained_layout=True)
    for axis, part, title in zip(axes, (0, 1), ("attention", "feed-forward"), strict=True):
        for block in [k for k in rows[0] if k != "step"]:
            axis.plot([r["step"] for r in rows], [abs(r[block][part]) for r in rows], label=block)
        axis.set(title=f"|tanh γ|, {title}", xlabel="training step")
        axis.grid(alpha=0.3)
    axes[0].legend(title="block", fontsize=8)
    figure.savefig(file, dpi=110)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py measure-demo", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--no-files", action="store_true", help="print the tables only")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in MEASURES]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in arguments.names or MEASURES:
        measure = MEASURES[name]
        demo = Demo(measure.kind)
        scenes = measure.scenes(arguments.scenes + SHOWN)
        results[name] = figures_of(demo, measure, scenes[: arguments.scenes], name)
        print(f"\n{arguments.scenes} scenes\n{table({name: results[name]})}", flush=True)
        if not arguments.no_files:
            results = {name: results[name] for name in MEASURES if name in results}
            FILE.write_text(json.dumps(results, indent=1) + "\n")
            write_page(results)
            sheet(demo, measure, scenes[-SHOWN:]).save(DOCS / f"demo_{name}.png")
    if not arguments.no_files:
        gate_plot(ROOT / "demo" / "training" / "gates" / "boxes.jsonl", DOCS / "demo_gates.png")
