"""Fourier embedding of coordinates: GLIGEN (arXiv 2301.07093), section 3.1, `Fourier(l)`.

Original: `FourierEmbedder` in ldm/modules/diffusionmodules/util.py of gligen/GLIGEN.
"""

import torch
from torch import Tensor

FREQUENCIES = 8
TEMPERATURE = 100


def fourier_width(coordinates: int) -> int:
    """Numbers that `coordinates` coordinates become: 64 for a box (xyxy), 32 for a point (xy)."""
    return coordinates * FREQUENCIES * 2


def fourier_embedding(x: Tensor) -> Tensor:
    """Sines and cosines of coordinates in 0..1, at frequencies 100^(k/8), k = 0..7.

    x: [..., n] with n coordinates. Returns [..., 16 n], frequency-major: for each frequency the
    sines of all n coordinates, then their cosines.
    """
    k = torch.arange(FREQUENCIES, device=x.device, dtype=x.dtype)
    frequency = TEMPERATURE ** (k / FREQUENCIES)  # [8]
    angle = frequency[:, None] * x[..., None, :]  # [..., 8, n]
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # [..., 8 * 2n]
