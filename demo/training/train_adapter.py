"""Gated layers and tokenizer of one GLIGEN on grounded scenes, over the frozen base."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ...gligen_ops.files.checkpoint import build_gligen, checkpoint_of, state_dict_of, tensors_of
from ...gligen_ops.layers.first_conv import FirstConv
from ...gligen_ops.learning import training
from ...gligen_ops.model import Gligen, blocks_of
from .. import models
from . import data, train_base
from .adapters import ADAPTERS
from .adapters.adapter import Adapter, no_held_out
from .frozen import denoiser, gate_log, kept_frozen
from .guidance import OPENING, Example, learn
from .stages import GATES, RUN, load_weights, save_weights

BATCH = 64
LATENT_SIZE = (16, 16)


def extra(entities: list, first_conv: FirstConv) -> Tensor:
    """What the first convolution takes beside the latents, which are as large as those of the world."""
    return torch.cat([first_conv.extra(entity, LATENT_SIZE) for entity in entities])


def gligen_of(adapter: Adapter, unet: nn.Module, steps: int) -> Gligen:
    """As it begins: its gates at 0, or its gated layers those of the adapter that it starts with."""
    first_conv = adapter.first_conv(unet.input_blocks[0][0])
    gligen = Gligen(
        adapter.tokenizer, models.CONTEXT, blocks_of(unet),
        first_conv=first_conv, kind=adapter.gligen_kind,
    )  # fmt: skip
    if adapter.start:
        tensors = load_weights(adapter.start)
        other = build_gligen(checkpoint_of(tensors))
        other.load_state_dict(state_dict_of(other, tensors))
        gligen.fusers.load_state_dict(other.fusers.state_dict())
        adapter.begin(other.position_net, steps)
    return gligen


def train(name: str, steps: int) -> None:
    torch.manual_seed(2)
    adapter = ADAPTERS[name]()
    unet, text = (training.freeze(m) for m in train_base.trained())
    adapter.prepare(text)
    usable = np.array([i for i, scene in enumerate(adapter.scenes) if no_held_out(scene)])
    tokens = data.Tokens()
    gligen = gligen_of(adapter, unet, steps)
    with torch.no_grad():
        null_context = text(tokens([""]))[0]

    def batches(step: int) -> Example:
        rng = np.random.default_rng((adapter.seed, step))
        picked = rng.choice(usable, size=BATCH)
        with torch.no_grad():
            context = text(tokens([adapter.caption(i, rng) for i in picked]))[0]
        examples = [adapter.example(i, rng) for i in picked]
        inputs = [adapter.tokenizer.inputs(e.entities) for e in examples]
        batch = training.Batch(
            adapter.latents[torch.from_numpy(picked)],
            context,
            tuple(torch.cat(parts) for parts in zip(*inputs, strict=True)),
            partial(extra, [e.beside for e in examples]),
        )
        regions = torch.stack([e.regions for e in examples])
        # Layout is decided where there is much noise: four in five steps are drawn from there.
        low = np.where(rng.random(BATCH) < 0.6, 500, 0)
        return batch, regions, torch.from_numpy(rng.integers(low, training.Diffusion.steps))

    file = RUN / f"{name}.pt"
    every = gate_log(GATES / f"{name}.jsonl", gligen, steps, anew=not file.exists())
    opening = 0 if adapter.start else OPENING
    with kept_frozen(unet, text):
        learn(denoiser(unet), gligen, batches, null_context, file, steps, every, opening)
    save_weights(name, tensors_of(gligen))
