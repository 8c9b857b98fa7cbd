"""A model's fixed number of slots for entities: those in use are masked 1, and the rest show learned
null features. GLIGEN (arXiv 2301.07093), section 3.1.

Original: the masks of each `PositionNet` in ldm/modules/diffusionmodules of gligen/GLIGEN.
"""

import torch
from torch import Tensor


def filled(features: list[Tensor | None], slots: int, width: int) -> tuple[Tensor, Tensor]:
    """Features [F] (None: nothing) of the first slots, as [1, slots, F], and their mask [1, slots];
    zeros elsewhere. float32 on the CPU."""
    values, mask = torch.zeros(1, slots, width), torch.zeros(1, slots)
    for slot, feature in enumerate(features):
        if feature is not None:
            values[0, slot], mask[0, slot] = feature, 1
    return values, mask


def or_null(values: Tensor, mask: Tensor, null: Tensor) -> Tensor:
    """values: [B, N, F]; mask: [B, N] or [B, 1], 1 or 0; null: [F], shown where mask is 0."""
    mask = mask[..., None].to(values)
    return values * mask + (1 - mask) * null.to(values)
