"""The region that grounded inpainting paints: GLIGEN (arXiv 2301.07093), section 4.1, "Inpainting".

Original: `draw_masks_from_boxes` in inpaint_mask_func.py of gligen/GLIGEN, whose mask is 1 where the
image is known.
"""

import torch
from torch import Tensor

from .entity import Box


def boxes_mask(boxes: list[Box], size: tuple[int, int]) -> Tensor:
    """1 in the boxes, 0 elsewhere, on a latent of size (h, w). [1, h, w]. A box begins and ends at the
    latent pixel that its edge falls into, as in the original, and covers one at least."""
    height, width = size
    mask = torch.zeros(1, height, width)
    for box in boxes:
        x0, y0 = min(int(box.x0 * width), width - 1), min(int(box.y0 * height), height - 1)
        x1, y1 = max(int(box.x1 * width), x0 + 1), max(int(box.y1 * height), y0 + 1)
        mask[:, y0:y1, x0:x1] = 1
    return mask
