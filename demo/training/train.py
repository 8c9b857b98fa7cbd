"""Trains the demo model from a fixed seed: `python3 dev.py train-demo`, or only the stages named.

    vae      the autoencoder of the world's pictures
    base     text encoder and UNet on captioned scenes, no grounding input
    decoder  the autoencoder's decoder once more, to draw crisply what the base paints
    boxes    gated layers and tokenizer of text boxes, over the frozen base

and, where they are named, what the other kinds of grounding add to it:

    vision   the CLIP vision model that reads reference pictures
    joints   an eye that finds the joints of persons, to measure with
    images, keypoints, canny, inpainting   gated layers and tokenizer of each

A stage that was interrupted goes on where it stopped; remove demo/run to start over.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch

from . import data, train_adapter, train_base, train_joints, train_vae, train_vision
from .adapters import ADAPTERS

STAGES = {  # what trains it, steps
    "vae": (train_vae.train, 1000),
    "base": (train_base.train, 3600),
    "decoder": (train_vae.train_decoder, 800),
    "vision": (train_vision.train, 1500),
    "joints": (train_joints.train, 1500),
    **{name: (partial(train_adapter.train, name), a.steps) for name, a in ADAPTERS.items()},
}
TEXT_BOXES = ("vae", "base", "decoder", "boxes")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py train-demo", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES],
                        help=f"default: {', '.join(TEXT_BOXES)}")  # fmt: skip
    for stage, (_, steps) in STAGES.items():
        parser.add_argument(f"--{stage}-steps", type=int, default=steps, metavar="N")
    parser.add_argument("--scenes", type=int, default=data.COUNT, metavar="N")
    arguments = parser.parse_args(argv)
    data.COUNT = arguments.scenes
    torch.set_flush_denormal(True)
    for stage in arguments.stages or TEXT_BOXES:
        train, _ = STAGES[stage]
        train(getattr(arguments, f"{stage}_steps"))
