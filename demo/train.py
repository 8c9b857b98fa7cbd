"""Trains the demo model from a fixed seed: `python3 dev.py train-demo`.

    vae      the autoencoder of the world's pictures
    base     text encoder and UNet on captioned scenes, no grounding input
    gligen   gated layers and box tokenizer on grounded scenes, over the frozen base
    decoder  the autoencoder's decoder once more, to draw crisply what the base paints

A stage that was interrupted goes on where it stopped; remove demo/run to start over.
"""

import argparse
import os

import torch

from . import models

models.import_host()

from . import data, train_base, train_gligen, train_vae  # noqa: E402

TRAINERS = {
    "vae": train_vae.train,
    "base": train_base.train,
    "gligen": train_gligen.train,
    "decoder": train_vae.train_decoder,
}
STAGES = {"vae": 1000, "base": 3600, "gligen": 8000, "decoder": 800}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py train-demo", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", choices=[[], *STAGES], help="default: all, in order")
    for stage, steps in STAGES.items():
        parser.add_argument(f"--{stage}-steps", type=int, default=steps, metavar="N")
    parser.add_argument("--scenes", type=int, default=data.COUNT, metavar="N")
    arguments = parser.parse_args()
    data.COUNT = arguments.scenes
    torch.set_num_threads(os.cpu_count())
    torch.set_flush_denormal(True)
    for stage in arguments.stages or STAGES:
        steps = getattr(arguments, f"{stage}_steps")
        TRAINERS[stage](steps)


if __name__ == "__main__":
    main()
