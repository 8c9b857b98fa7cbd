"""The frozen base in the training of a GLIGEN, and the log of its gates."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ...gligen_ops.learning import training
from ...gligen_ops.model import Block, Gligen


def denoiser(unet: nn.Module) -> training.Denoise:
    def denoise(z, t, context, fuse, first):
        def middle_patch(v, extra):
            return fuse(v, Block(*extra["block"], extra["block_index"]), extra["n_heads"])

        def input_block_patch(h, extra):
            return first(z) if first is not None and extra["block"] == ("input", 0) else h

        patches = {"middle_patch": [middle_patch], "input_block_patch": [input_block_patch]}
        return unet(z, t, context=context, transformer_options={"patches": patches})

    return denoise


@contextmanager
def kept_frozen(*modules: nn.Module) -> Iterator[None]:
    """Raises RuntimeError where the modules are not the same bits afterwards."""
    parameters = [p for module in modules for p in module.parameters()]
    before = training.fingerprint(parameters)
    yield
    if not all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True)):
        raise RuntimeError("The frozen base changed during training.")


def gate_log(file: Path, gligen: Gligen, steps: int, anew: bool) -> Callable[[int], None]:
    """What `fit` is to call for every step: notes the gates now and then. anew: begin an empty log."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if anew:
        file.write_text("")

    def every(step: int) -> None:
        if step % 20 == 0 or step + 1 == steps:
            with file.open("a") as log:
                print(json.dumps({"step": step, **training.gate_values(gligen)}), file=log)

    return every
