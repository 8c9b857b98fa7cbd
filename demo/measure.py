"""Measures the demo model: how often an object stands in its box, on layouts never trained on.

`python3 dev.py measure-demo` runs the pack's own nodes in ComfyUI, writes docs/demo.json, the table
to the screen, and the pictures docs/demo_tau.png and docs/demo_gates.png.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from . import eye, models, world

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TAUS = (0.0, 0.3, 1.0)
STEPS, CFG, SAMPLER, SCHEDULER = 20, 4.0, "euler", "normal"


def load_pack() -> None:
    """The repository as a package, as ComfyUI imports it."""
    spec = importlib.util.spec_from_file_location(
        "gligen_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["gligen_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["gligen_pack"])


class Demo:
    """The demo model and a run of it through the pack's nodes."""

    def __init__(self):
        from gligen_pack.nodes.demo_model import GligenDemoModel

        self.model, self.clip, self.vae, self.gligen = GligenDemoModel.execute().result
        self.negative = self.encode("")

    def encode(self, text: str):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    @torch.inference_mode()
    def picture(self, scene: world.Scene, tau: float, seed: int, cfg: float = CFG) -> np.ndarray:
        """[128, 128, 3] in 0..1, of the scene's things in its boxes."""
        from gligen_pack.gligen_ops.entity import Box, PhraseBox
        from gligen_pack.nodes.grounding import ground_boxes
        from gligen_pack.nodes.ksampler import GligenKSampler

        prompt = self.encode(" and ".join(t.phrase for t in scene.things))
        boxes = [PhraseBox(t.phrase, Box(*t.box)) for t in scene.things]
        positive = ground_boxes(prompt, self.gligen, self.clip, [boxes])
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        (out,) = GligenKSampler.execute(
            self.model, seed, STEPS, cfg, SAMPLER, SCHEDULER, positive, self.negative, latent,
            1.0, tau, 0.0, 1.0, "null",
        ).result  # fmt: skip
        return self.vae.decode(out["samples"])[0].clamp(0, 1).numpy()


def layouts(count: int) -> list[world.Scene]:
    rng = np.random.default_rng(1000)
    return [world.Scene.random(rng, world.pairs()) for _ in range(count)]


def measure(demo: Demo, scenes: list[world.Scene], cfg: float) -> dict:
    """For each τ, and for pairs seen in grounding and held out from it: boxes, hits, mean IoU."""
    results = {}
    for tau in TAUS:
        ious = {"seen": [], "held out": []}
        for seed, scene in enumerate(tqdm(scenes, desc=f"τ = {tau:g}", mininterval=5)):
            found = eye.detect(demo.picture(scene, tau, seed, cfg))
            for thing in scene.things:
                group = "held out" if (thing.colour, thing.shape) in world.HELD_OUT else "seen"
                iou = eye.box_accuracy(found, thing.colour, thing.shape, thing.box)
                ious[group].append(iou)
        results[f"{tau:g}"] = {
            group: {
                "boxes": len(values),
                "hit": float(np.mean(np.array(values) > 0.5)),
                "mean_iou": float(np.mean(values)),
            }
            for group, values in {**ious, "all": ious["seen"] + ious["held out"]}.items()
            if values
        }
    return results


def table(results: dict) -> str:
    lines = ["| τ | pairs | boxes | IoU > 0.5 | mean IoU |", "|---|---|---|---|---|"]
    for tau, groups in results.items():
        for group, r in groups.items():
            lines.append(
                f"| {tau} | {group} | {r['boxes']} | {r['hit']:.1%} | {r['mean_iou']:.2f} |"
            )
    return "\n".join(lines)


def tau_sheet(demo: Demo, scenes: list[world.Scene], cfg: float) -> Image.Image:
    """A row for each τ, a column for each scene, the boxes outlined."""
    side, margin = 192, 74
    sheet = Image.new("RGB", (margin + side * len(scenes), side * len(TAUS)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for row, tau in enumerate(TAUS):
        draw.text((margin / 2, (row + 0.5) * side), f"tau {tau:g}", "black", font, anchor="mm")
        for column, scene in enumerate(scenes):
            values = (demo.picture(scene, tau, column, cfg) * 255).astype(np.uint8)
            picture = Image.fromarray(values).resize((side, side), Image.Resampling.LANCZOS)
            x, y = margin + column * side, row * side
            sheet.paste(picture, (x, y))
            for thing in scene.things:
                x0, y0, x1, y1 = (round(v * side) for v in thing.box)
                rectangle = (x + x0, y + y0, x + x1, y + y1)
                draw.rectangle(rectangle, outline="black", width=3)
                draw.rectangle(rectangle, outline=world.COLOURS[thing.colour], width=1)
    return sheet


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py measure-demo", description=__doc__.split("\n")[0])
    parser.add_argument("--layouts", type=int, default=200)
    parser.add_argument("--cfg", type=float, default=CFG)
    parser.add_argument("--no-files", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    models.import_host()
    load_pack()
    demo = Demo()
    results = measure(demo, layouts(arguments.layouts), arguments.cfg)
    print(table(results))
    if arguments.no_files:
        return
    DOCS.mkdir(exist_ok=True)
    (DOCS / "demo.json").write_text(json.dumps(results, indent=1) + "\n")
    scenes = [s for s in layouts(400)[200:] if len(s.things) > 1][:6]
    tau_sheet(demo, scenes, arguments.cfg).save(DOCS / "demo_tau.png")
    gates = ROOT / "demo" / "gates.jsonl"
    if gates.exists():
        gate_plot(gates, DOCS / "demo_gates.png")


if __name__ == "__main__":
    main()
