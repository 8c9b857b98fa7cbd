"""What makes the demo's GLIGENs learn in minutes, and is not the paper's: for the first steps the gates are
opened by hand, and the layers are told where to look.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...gligen_ops.layers.attention_maps import attention_logits
from ...gligen_ops.layers.gated_self_attention import GatedSelfAttention, GroundingKeys
from ...gligen_ops.learning import training
from ...gligen_ops.learning.fit import fit
from ...gligen_ops.model import Gligen

OPENING = 100  # steps
OPENED = 0.4  # γ after them
GUIDED = 400  # steps
WEIGHT = 0.01  # of the guidance at their start
LR, GATE_LR = 2e-3, 5e-3
Example = tuple[training.Batch, Tensor, Tensor]
"""A batch, the corners xyxy of the region of each of its grounding tokens [B, G, 4], which are zeros where
there is none, and its time steps t [B]."""


def learn(
    denoise: training.Denoise,
    gligen: Gligen,
    batches: Callable[[int], Example],
    null_context: Tensor,
    file: Path,
    steps: int,
    every: Callable[[int], None] = lambda step: None,
    opening: int = OPENING,
) -> float:
    """Optimise θ'. batches: of a step. opening: steps after which the gates are open; 0 where they are
    already. file, every and the seconds that come back: see `fit`."""
    diffusion = training.Diffusion()

    def step_loss(step: int) -> Tensor:
        if opening and step <= opening:
            open_gates(gligen, step / opening)
        batch, regions, t = batches(step)
        weight = WEIGHT * max(0.0, 1 - step / GUIDED)
        return guided_loss(denoise, gligen, diffusion, batch, null_context, t, regions, weight)

    groups = training.parameter_groups(gligen, LR, GATE_LR)
    return fit(file, gligen, groups, step_loss, steps, every)


def guided_loss(
    denoise: training.Denoise,
    gligen: Gligen,
    diffusion: training.Diffusion,
    batch: training.Batch,
    null_context: Tensor,
    t: Tensor,
    regions: Tensor,
    weight: float,
) -> Tensor:
    """The objective, plus `weight` times how little the places in a token's region attend to it."""
    if not weight:
        return training.loss(denoise, gligen, diffusion, batch, null_context, t)
    guidance = Guidance(regions)
    loss = training.loss(denoise, gligen, diffusion, batch, null_context, t, guidance.see)
    return loss + weight * guidance.loss()


class Guidance:
    """How little the places in the tokens' regions attend to them, over the layers of one forward."""

    def __init__(self, regions: Tensor):
        self.regions = regions
        self.surprises: list[Tensor] = []

    def see(
        self, layer: GatedSelfAttention, v: Tensor, keys: GroundingKeys, heads: int, kept: Tensor
    ) -> None:
        places = inside(self.regions * kept[..., None], v.shape[1])
        self.surprises.append(surprise(layer, v.detach(), keys.key, heads, places))

    def loss(self) -> Tensor:
        return torch.stack(self.surprises).mean()


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
