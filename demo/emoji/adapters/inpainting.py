"""Inpainting: things in their boxes, by phrases or pictures, painted into a picture that is known around
them."""

import torch
from torch import Tensor

from ..device import DEVICE
from .adapter import Examples, kept_of
from .boxes import Boxes
from .images import Images

PAINTED = 0.7  # share of a scene's things


class Inpainting(Boxes):
    name, kind, seed = "inpainting", "text box inpainting", 11
    start = "boxes"

    def begin(self, other):
        self.tokenizer.load_state_dict(other.position_net.state_dict())

    def examples(self, at):
        return painted(self, at)


class ImageInpainting(Images):
    name, kind, seed = "image_inpainting", "text and image box inpainting", 12
    start = "images"

    def begin(self, other):
        self.tokenizer.load_state_dict(other.position_net.state_dict())

    def examples(self, at):
        return painted(self, at)


def painted(adapter: Boxes | Images, at: Tensor) -> Examples:
    """Examples in which the first thing, and others by chance, are to be painted."""
    name = adapter.scenes.name[at]
    kept = kept_of(name, PAINTED)
    kept[:, 0].fill_(1)
    known = 1 - touched(adapter.scenes.box[at] * kept[..., None], adapter.latents.shape[-1])
    known = torch.cat([adapter.latents[at] * known, known], dim=1)
    return adapter.boxed(at, kept)._replace(extra=lambda conv: known)


def touched(box: Tensor, side: int) -> Tensor:
    """1 for the places of a latent that a box reaches into. box: [B, K, 4]. Returns [B, 1, side, side]."""
    low = torch.arange(side, device=DEVICE) / side
    x0, y0, x1, y1 = (edge[..., None] for edge in box.unbind(-1))  # [B, K, 1]
    across = (low < x1) & (low + 1 / side > x0)  # [B, K, side]
    down = (low < y1) & (low + 1 / side > y0)
    return (down[..., :, None] & across[..., None, :]).any(1, keepdim=True).float()
