"""Gated layers and tokenizer of one GLIGEN on grounded scenes, over the frozen base."""

import torch
from torch import Tensor, nn

from ...gligen_ops.files.checkpoint import build_gligen, checkpoint_of, state_dict_of, tensors_of
from ...gligen_ops.learning import training
from ...gligen_ops.learning.fit import fit
from ...gligen_ops.model import Gligen, blocks_of
from ..models import CONTEXT
from ..training.frozen import denoiser, gate_log, kept_frozen
from ..training.guidance import OPENING, Guidance, open_gates
from . import data, train_base
from .adapters import ADAPTERS
from .adapters.adapter import Adapter
from .device import DEVICE, graphed, half, number
from .stages import FOLDER, RUN, load_weights, save_weights

CPU_BATCH = 32
HELD = 800  # steps in which the gates stay open, whatever they would do
GUIDED = 1500  # steps
WEIGHT = 0.05  # of the guidance at their start
LAYOUT = 0.85  # share of examples with so much noise that the layout is still open
FROM = 400  # time step


class Loss(nn.Module):
    """The objective on random grounded scenes, plus so much of the guidance as is asked."""

    def __init__(self, adapter: Adapter, gligen: Gligen, unet: nn.Module, text: nn.Module):
        super().__init__()
        self.gligen, self.text, self.unet = gligen, text, unet
        self.adapter, self.denoise = adapter, denoiser(unet)
        self.batch = adapter.batch if DEVICE.type == "cuda" else CPU_BATCH
        self.diffusion = training.Diffusion()
        self.diffusion.alpha_bar = self.diffusion.alpha_bar.to(DEVICE)
        with torch.no_grad():
            self.null = text(data.Tokens()([""]).to(DEVICE))[0]

    def forward(self, weight: Tensor) -> Tensor:
        adapter = self.adapter
        at = adapter.usable[torch.randint(len(adapter.usable), (self.batch,), device=DEVICE)]
        example = adapter.examples(at)
        guidance = Guidance(example.regions)
        with half():
            with torch.no_grad():
                context = self.text(example.captions)[0]
            batch = training.Batch(adapter.latents[at], context, example.inputs, example.extra)
            t = train_base.time_steps(self.batch, LAYOUT, FROM)
            loss = training.loss(
                self.denoise, self.gligen, self.diffusion, batch, self.null, t, guidance.see
            )
        return loss + weight * guidance.loss()


def gligen_of(adapter: Adapter, unet: nn.Module) -> Gligen:
    """As it begins: its gates at 0, or its gated layers those of the adapter that it starts with."""
    first_conv = adapter.first_conv(unet.input_blocks[0][0])
    gligen = Gligen(
        adapter.tokenizer, CONTEXT, blocks_of(unet),
        first_conv=first_conv, kind=adapter.gligen_kind,
    )  # fmt: skip
    if adapter.start:
        tensors = load_weights(adapter.start, "cpu")
        other = build_gligen(checkpoint_of(tensors))
        other.load_state_dict(state_dict_of(other, tensors))
        gligen.fusers.load_state_dict(other.fusers.state_dict())
        adapter.begin(other)
    return gligen.to(DEVICE)


def train(name: str, steps: int) -> None:
    adapter = ADAPTERS[name]()
    torch.manual_seed(adapter.seed)
    unet, text = train_base.trained()
    adapter.prepare(text)
    gligen = gligen_of(adapter, unet)
    loss = graphed(Loss(adapter, gligen, unet, text), number(0))

    def step_loss(step: int) -> Tensor:
        if not adapter.start and step <= HELD:
            open_gates(gligen, min(1.0, step / OPENING))
        return loss(number(WEIGHT * max(0.0, 1 - step / GUIDED)))

    file = RUN / f"{name}.pt"
    every = gate_log(FOLDER / "gates" / f"{name}.jsonl", gligen, steps, anew=not file.exists())
    with kept_frozen(unet, text):
        fit(file, gligen, training.parameter_groups(gligen, 2e-3, 5e-3), step_loss, steps, every)
    save_weights(name, tensors_of(gligen))
