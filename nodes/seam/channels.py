"""What one grounding adds to the first convolution of the UNet."""

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from ...gligen_ops.entities import Entity, Inpainting
from .groundings import Grounding
from .tags import Row


class Channels:
    """What one grounding adds to the first convolution in a model call.

    numbers: of the call's rows that it is for. rows: all of them. x: the call's input [B, 4, h, w]. scale:
    brings a latent to the scale of the model's."""

    def __init__(
        self,
        grounding: Grounding,
        numbers: list[int],
        rows: tuple[Row, ...],
        x: Tensor,
        scale: Callable[[Tensor], Tensor],
    ):
        self.grounding = grounding
        self.conv = grounding.gligen.net.first_conv
        places = {i: rows[i]._replace(cond=0) for i in numbers}
        of_place = {place: self._extra(place, x, scale) for place in set(places.values())}
        extra = {i: of_place[place] for i, place in places.items() if of_place[place] is not None}
        strengths = [grounding.channels.strength_at(rows[i].picture) for i in extra]
        self.strengths = torch.tensor(strengths, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)
        self.rows = torch.tensor(list(extra), dtype=torch.long, device=x.device)
        self.extra = torch.cat(list(extra.values())).to(x) if extra else None

    def _extra(self, row: Row, x: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor | None:
        size = tuple(x.shape[-2:])
        entity = self.grounding.entity(self.grounding.channels, row, size)
        if isinstance(entity, Inpainting):
            entity = replace(entity, known=scale(entity.known))
        return entity and self.conv.extra(on_device(entity, x.device), size)

    def change(self, x: Tensor, base: nn.Conv2d) -> Tensor:
        """What the grounded rows of the first features get beyond those of the UNet's own convolution."""
        visual = x[self.rows]
        changed = self.conv(visual, self.extra) - base(visual)
        return self.strengths * changed


def on_device(entity: Entity, device: torch.device) -> Entity:
    """An entity with its tensors where the run is."""
    tensors = {f.name: getattr(entity, f.name) for f in fields(entity)}
    moved = {name: t.to(device) for name, t in tensors.items() if isinstance(t, Tensor)}
    return replace(entity, **moved)


def with_changes(h: Tensor, x: Tensor, base: nn.Conv2d, channels: list[Channels]) -> Tensor:
    """h: the output [B, C, h, w] of the UNet's own first convolution `base`, and of what a ControlNet adds
    to it, for x [B, 4, h, w]. Returns h with the GLIGENs' convolutions, which see their extra channels too,
    in place of base."""
    for one in channels:
        if one.extra is not None:
            h = h.index_add(0, one.rows, one.change(x, base).to(h))
    return h
