"""How GLIGEN learns: arXiv 2301.07093, section 3.2, "Continual Learning for Grounded Generation".

The base model's weights θ are frozen; gated layers and tokenizer, θ', are inserted with their gates
at 0, so that at the start the model is exactly the base, and learn the base's own objective

    min over θ' of  E ‖ε − f_{θ,θ'}(z_t, t, y)‖²      with  z_t = √ᾱ_t z + √(1−ᾱ_t) ε

on grounded examples y = (caption, grounding). Caption and grounding are each dropped 10% of the time,
so that the model also knows null inputs, which classifier-free guidance needs.
Original: trainer.py of gligen/GLIGEN.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..layers.first_conv import LATENT, FirstConv
from ..layers.gated_self_attention import GatedSelfAttention, GroundingKeys
from ..model import Block, Gligen

DROP = 0.1
Fuse = Callable[[Tensor, Block, int], Tensor]
"""Visual tokens [B, N, C] after the self-attention of a block with so many heads → the same, grounded."""
First = Callable[[Tensor], Tensor] | None
"""z_t [B, c, h, w] → what the UNet's first convolution is to give instead; None: its own."""
Denoise = Callable[[Tensor, Tensor, Tensor, Fuse, First], Tensor]
"""The frozen base: z_t [B, c, h, w], t [B], caption context [B, L, F], fuse, first → ε of z_t's shape."""

Seen = Callable[[GatedSelfAttention, Tensor, GroundingKeys, int, Tensor], None]
"""What may look on: a gated layer, its visual tokens, keys and heads, and the `kept` of `dropped`."""


@dataclass(frozen=True)
class Batch:
    """Grounded examples. extra: makes what a first convolution takes beside the latents, [B, k, h, w]."""

    latents: Tensor  # z, [B, c, h, w]
    context: Tensor  # caption, [B, L, F]
    grounding: tuple[Tensor, ...]  # the tokenizer's inputs [B, ...], masks among them
    extra: Callable[[FirstConv], Tensor] | None = None


class Diffusion:
    """The noise schedule of Stable Diffusion: T = 1000, √β linear from √0.00085 to √0.012."""

    steps = 1000

    def __init__(self):
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, self.steps, dtype=torch.float64) ** 2
        self.alpha_bar = torch.cumprod(1 - beta, 0).float()

    def noisy(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha_bar = self.alpha_bar.to(z.device)[t].view(-1, *[1] * (z.ndim - 1))
        return alpha_bar.sqrt() * z + (1 - alpha_bar).sqrt() * noise


def freeze(module: nn.Module) -> nn.Module:
    """The base keeps its weights: no gradient, no dropout."""
    return module.eval().requires_grad_(False)


def parameter_groups(gligen: Gligen, lr: float, gate_lr: float) -> list[dict]:
    """Everything that learns. The gates, two numbers a layer, may go faster than the rest."""
    gates = [p for n, p in gligen.named_parameters() if ".alpha_" in n]
    rest = [p for n, p in gligen.named_parameters() if ".alpha_" not in n]
    return [{"params": rest, "lr": lr}, {"params": gates, "lr": gate_lr, "weight_decay": 0.0}]


def widened(conv: nn.Conv2d, downsample_net: nn.Module) -> FirstConv:
    """A first convolution that begins as the base's: its weights, and zeros for what is new."""
    first = FirstConv(conv.out_channels, downsample_net)
    with torch.no_grad():
        first.conv.weight.zero_()
        first.conv.weight[:, :LATENT] = conv.weight
        first.conv.bias.copy_(conv.bias)
    return first


def dropped(batch: Batch, null_context: Tensor) -> tuple[Batch, Tensor]:
    """The batch with caption and grounding each replaced by null for 10% of its examples, and which kept
    their grounding, [B, 1] of 0 or 1. What lies beside the latent stays, as it does in guidance."""
    count = len(batch.latents)
    no_caption = torch.rand(count, 1, 1, device=batch.context.device) < DROP
    kept = (torch.rand(count, 1, device=batch.context.device) >= DROP).to(batch.context)
    context = torch.where(no_caption, null_context, batch.context)
    grounding = tuple(x * kept.view(count, *[1] * (x.ndim - 1)) for x in batch.grounding)
    return replace(batch, context=context, grounding=grounding), kept


def loss(
    denoise: Denoise,
    gligen: Gligen,
    diffusion: Diffusion,
    batch: Batch,
    null_context: Tensor,
    t: Tensor,
    seen: Seen = lambda *_: None,
) -> Tensor:
    """The objective on one batch at the time steps t [B], integers in 0..999."""
    batch, kept = dropped(batch, null_context)
    tokens = gligen.position_net(*batch.grounding)  # [B, G, D]

    def fuse(v: Tensor, block: Block, heads: int) -> Tensor:
        layer = gligen.layer(block)
        keys = layer.keys(tokens)
        seen(layer, v, keys, heads, kept)
        return layer(v, keys, heads, layer.gates())

    first = None
    if gligen.first_conv is not None:
        first = partial(gligen.first_conv, extra=batch.extra(gligen.first_conv))
    noise = torch.randn_like(batch.latents)
    predicted = denoise(diffusion.noisy(batch.latents, noise, t), t, batch.context, fuse, first)
    return torch.nn.functional.mse_loss(predicted.float(), noise)


def gate_values(gligen: Gligen) -> dict[str, tuple[float, float]]:
    """tanh(γ_attn), tanh(γ_dense) of each layer, by block."""
    return {
        str(block): tuple(g.item() for g in gligen.layer(block).gates()) for block in gligen.widths
    }


def fingerprint(parameters: Iterable[Tensor]) -> list[Tensor]:
    """A copy of the weights, to show afterwards that they are the same bits."""
    return [p.detach().clone() for p in parameters]
