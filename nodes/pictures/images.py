"""The host's IMAGE and MASK: brought into the form that is needed, or refused with the reason."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...gligen_ops.errors import GligenError
from ...gligen_ops.fitting import FAINT


def three_channels(image: Tensor) -> Tensor:
    """[B, H, W, C] of a grey, a colour or a transparent picture → [B, H, W, 3]."""
    if image.ndim != 4 or not image.numel():
        raise GligenError(
            f"image: there is no picture in it (its shape is {list(image.shape)}). Connect one, or look at "
            "what the node before gives."
        )
    if not image.isfinite().all():
        raise GligenError(
            "image: it has pixels that are no numbers (NaN), as a failed run leaves them. Look at what the "
            "node before gives."
        )
    channels = image.shape[-1]
    if channels not in (1, 3, 4):
        raise GligenError(
            f"image: it has {channels} channels; expected a grey (1), a colour (3) or a transparent (4) "
            "picture."
        )
    return image.expand(*image.shape[:-1], 3) if channels == 1 else image[..., :3]


def painted(mask: Tensor, image: Tensor) -> Tensor:
    """A MASK [B, H, W] of the picture's size, as [B, 1, H, W]."""
    if mask.ndim < 2 or not mask.numel() or not mask.isfinite().all():
        raise GligenError("mask: there is nothing in it, or no numbers (NaN). Draw it anew.")
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if mask.shape[-2:] != image.shape[1:3]:
        came, expected = (f"{s[1]} by {s[0]}" for s in (mask.shape[-2:], image.shape[1:3]))
        raise GligenError(
            f"mask: it is {came} pixels, and the picture is {expected}. Draw the mask on this picture, or "
            "resize one of them."
        )
    if mask.max() < FAINT:
        raise GligenError(
            f"mask: it is black everywhere, or nearly so (at most {mask.max():.0%} white), so there is "
            "nothing to paint. Make it white where the picture is to be painted anew."
        )
    return mask


def to_picture(image: Tensor) -> Image.Image:
    """From [H, W, C] in 0..1."""
    values = image[..., :3].float().clamp(0, 1).mul(255).round()
    return Image.fromarray(values.to("cpu", torch.uint8).numpy())


def from_picture(picture: Image.Image) -> Tensor:
    """As [H, W, 3] in 0..1."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
