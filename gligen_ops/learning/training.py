"""How GLIGEN learns: arXiv 2301.07093, section 3.2, "Continual Learning for Grounded Generation".

The base model's weights θ are frozen; gated layers and tokenizer, θ', are inserted with their gates
at 0, so that at the start the model is exactly the base, and learn the base's own objective

    min over θ' of  E ‖ε − f_{θ,θ'}(z_t, t, y)‖²      with  z_t = √ᾱ_t z + √(1−ᾱ_t) ε

on grounded examples y = (caption, grounding). Caption and grounding are each dropped 10% of the time,
so that the model also knows null inputs, which classifier-free guidance needs.
Original: trainer.py of gligen/GLIGEN.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..entities import Inpainting, SpatialMap
from ..layers.attention_maps import attention_logits
from ..layers.first_conv import LATENT, FirstConv
from ..layers.gated_self_attention import GatedSelfAttention
from ..model import Block, Gligen
from .fit import fit

DROP = 0.1
OPENING = 100  # steps
OPENED = 0.4  # γ after them
GUIDED = 400  # steps
GUIDANCE = 0.01  # weight of the guidance at their start
Fuse = Callable[[Tensor, Block, int], Tensor]
"""Visual tokens [B, N, C] after the self-attention of a block with so many heads → the same, grounded."""
First = Callable[[Tensor], Tensor] | None
"""z_t [B, c, h, w] → what the UNet's first convolution is to give instead; None: its own."""
Denoise = Callable[[Tensor, Tensor, Tensor, Fuse, First], Tensor]
"""The frozen base: z_t [B, c, h, w], t [B], caption context [B, L, F], fuse, first → ε of z_t's shape."""


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # z, [B, c, h, w]
    context: Tensor  # caption, [B, L, F]
    grounding: tuple[Tensor, ...]  # the tokenizer's inputs [B, ...], masks among them
    regions: Tensor  # of each grounding token, corners xyxy [B, G, 4]; zeros: none
    beside: Sequence[SpatialMap | Inpainting] = ()  # of each example, for the first convolution


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


def learn(
    denoise: Denoise,
    gligen: Gligen,
    batches: Callable[[int], tuple[Batch, Tensor]],
    null_context: Tensor,
    file: Path,
    steps: int,
    every: Callable[[int], None] = lambda step: None,
    opening: int = OPENING,
    lr: float = 2e-3,
    gate_lr: float = 5e-3,
) -> float:
    """Optimise θ'. batches: of a step, its examples and their time steps t [B]. opening: steps after
    which the gates are open; 0 where they are already. file, every and the seconds that come back: see
    `fit`."""
    diffusion = Diffusion()
    groups = parameter_groups(gligen, lr, gate_lr)

    def step_loss(step: int) -> Tensor:
        if opening and step <= opening:
            open_gates(gligen, step / opening)
        batch, t = batches(step)
        guidance = GUIDANCE * max(0.0, 1 - step / GUIDED)
        return loss(denoise, gligen, diffusion, batch, null_context, t, guidance)

    return fit(file, gligen, groups, step_loss, steps, every)


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


def dropped(batch: Batch, null_context: Tensor) -> Batch:
    """The batch with caption and grounding each replaced by null for 10% of its examples. What lies
    beside the latent stays, as it does in guidance."""
    count = len(batch.latents)
    no_caption = torch.rand(count, 1, 1, device=batch.context.device) < DROP
    keep = (torch.rand(count, 1, device=batch.context.device) >= DROP).to(batch.context)

    def kept(x: Tensor) -> Tensor:
        return x * keep.view(count, *[1] * (x.ndim - 1))

    return replace(
        batch,
        context=torch.where(no_caption, null_context, batch.context),
        grounding=tuple(map(kept, batch.grounding)),
        regions=kept(batch.regions),
    )


def loss(
    denoise: Denoise,
    gligen: Gligen,
    diffusion: Diffusion,
    batch: Batch,
    null_context: Tensor,
    t: Tensor,
    guidance: float = 0.0,
) -> Tensor:
    """The objective on one batch at the time steps t [B], integers in 0..999, plus `guidance` times
    how little the places in a token's region attend to it."""
    batch = dropped(batch, null_context)
    tokens = gligen.position_net(*batch.grounding)  # [B, G, D]
    inattention = []

    def fuse(v: Tensor, block: Block, heads: int) -> Tensor:
        layer = gligen.layer(block)
        keys = layer.keys(tokens)
        if guidance:
            places = inside(batch.regions, v.shape[1])
            inattention.append(surprise(layer, v.detach(), keys.key, heads, places))
        return layer(v, keys, heads, layer.gates())

    first = None
    if gligen.first_conv is not None:
        size = tuple(batch.latents.shape[-2:])
        extra = torch.cat([gligen.first_conv.extra(one, size) for one in batch.beside])
        first = partial(gligen.first_conv, extra=extra)
    noise = torch.randn_like(batch.latents)
    predicted = denoise(diffusion.noisy(batch.latents, noise, t), t, batch.context, fuse, first)
    objective = torch.nn.functional.mse_loss(predicted, noise)
    return objective + guidance * torch.stack(inattention).mean() if guidance else objective


def inside(regions: Tensor, places: int) -> Tensor:
    """1 where a place of the square grid of visual tokens is in a token's region. [B, places, G]"""
    side = math.isqrt(places)
    centre = (torch.arange(side, device=regions.device) + 0.5) / side
    y, x = (c.reshape(1, -1, 1) for c in torch.meshgrid(centre, centre, indexing="ij"))
    x0, y0, x1, y1 = (c[:, None, :] for c in regions.unbind(-1))
    return ((x0 < x) & (x < x1) & (y0 < y) & (y < y1)).to(regions)


def surprise(
    layer: GatedSelfAttention, v: Tensor, key: Tensor, heads: int, places: Tensor
) -> Tensor:
    """Mean −log of the attention that a place in a token's region pays to the token. A grounding
    token is one of a hundred that a place sees, its trace in their mean is faint, and without this
    the gated layers take long to find it."""
    h = layer.norm1(v)
    key = torch.cat([layer.attn.to_k(h), key], dim=1)
    logits = attention_logits(layer.attn.to_q(h), key, heads)  # [B, heads, places, places + G]
    attention = logits.log_softmax(-1)[..., v.shape[1] :].mean(1)  # [B, places, G]
    return -(attention * places).sum() / places.sum().clamp(min=1)


@torch.no_grad()
def open_gates(gligen: Gligen, share: float) -> None:
    """For the first steps the gates are not learned but opened, from 0: around 0 a gate changes sign
    from step to step, and what is behind it learns one thing and then its opposite."""
    for block in gligen.widths:
        layer = gligen.layer(block)
        layer.alpha_attn.fill_(share * OPENED)
        layer.alpha_dense.fill_(share * OPENED)


def gate_values(gligen: Gligen) -> dict[str, tuple[float, float]]:
    """tanh(γ_attn), tanh(γ_dense) of each layer, by block."""
    return {
        str(block): tuple(g.item() for g in gligen.layer(block).gates()) for block in gligen.widths
    }


def fingerprint(parameters: Iterable[Tensor]) -> list[Tensor]:
    """A copy of the weights, to show afterwards that they are the same bits."""
    return [p.detach().clone() for p in parameters]
