"""The region that grounded inpainting paints: GLIGEN (arXiv 2301.07093), section 4.1, "Inpainting".

Original: `draw_masks_from_boxes` in inpaint_mask_func.py of gligen/GLIGEN, whose mask is 1 where the
image is known.
"""

import math

import torch
from torch import Tensor

from .places import Box

ROUNDING = 1e-3  # of latent pixels: 0.1 + 0.2 ends where 0.3 does


def boxes_mask(boxes: list[Box], size: tuple[int, int]) -> Tensor:
    """1 in the boxes, 0 elsewhere, on a latent of size (h, w). [1, h, w]. Every latent pixel that a box
    reaches into is in it. (The original rounds right and lower edges down, so that what is painted may
    end before its box does.)"""
    height, width = size
    mask = torch.zeros(1, height, width)
    for box in boxes:
        x0, y0 = (max(0, math.floor(v + ROUNDING)) for v in (box.x0 * width, box.y0 * height))
        x1, y1 = (math.ceil(v - ROUNDING) for v in (box.x1 * width, box.y1 * height))
        mask[:, y0:y1, x0:x1] = 1
    return mask
