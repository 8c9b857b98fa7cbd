"""Trains the demo model from a fixed seed: `python3 dev.py train-demo`, or only the stages named.

    vae      the autoencoder of the world's pictures
    base     text encoder and UNet on captioned scenes, no grounding input
    vision   the CLIP vision model that reads reference pictures
    eye, joints   what the demo is measured with
    boxes, images, keypoints, hed, canny, depth, normal, semantic, inpainting, image_inpainting
             gated layers and tokenizer of each kind of grounding, over the frozen base

A stage that was interrupted goes on where it stopped; remove demo/run to start over.
"""

import argparse
from functools import partial

import torch

from . import data, first_stage, joints, train_adapter, train_base, train_eye, train_vision
from .adapters import ADAPTERS

STAGES = {  # what trains it, steps
    "vae": (first_stage.train, 20000),
    "base": (train_base.train, 20000),
    "vision": (train_vision.train, 4000),
    "eye": (train_eye.train, 6000),
    "joints": (joints.train, 4000),
    **{name: (partial(train_adapter.train, name), a.steps) for name, a in ADAPTERS.items()},
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py train-demo", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], help="default: all of them")
    for stage, (_, steps) in STAGES.items():
        parser.add_argument(f"--{stage}-steps", type=int, default=steps, metavar="N")
    parser.add_argument("--scenes", type=int, default=data.COUNT, metavar="N")
    parsed = parser.parse_args(arguments)
    data.COUNT = parsed.scenes
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    for stage in parsed.stages or STAGES:
        train, _ = STAGES[stage]
        train(getattr(parsed, f"{stage}_steps".replace("-", "_")))
