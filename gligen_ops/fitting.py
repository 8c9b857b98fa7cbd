"""Maps and masks of any size, brought to a latent.

Original: `crop_and_resize` in gligen_inference.py of gligen/GLIGEN, which crops the middle square.
"""

from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, pad

from .places import Box

Size = tuple[int, int]
"""Height and width of a latent."""
FAINT = 0.05
"""What of a mask is below this counts as black."""


def middle(picture: Tensor, size: Size) -> Tensor:
    """The middle of a picture [C, H, W] in the aspect of this size."""
    height, width = picture.shape[-2:]
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return picture[:, top : top + rows, left : left + columns]


def cut_out(picture: Tensor, region: Box) -> Tensor:
    """What of a picture [..., H, W] lies in a region of it, at least a pixel. Where the region sticks out, it
    has the pixels of the edge again."""
    height, width = picture.shape[-2:]
    x0, y0, x1, y1 = region.corners(height, width)
    inside = picture[(..., *region.pixels(height, width))]
    beyond = (max(0, -x0), max(0, x1 - width), max(0, -y0), max(0, y1 - height))
    return pad(inside, beyond, mode="replicate") if any(beyond) else inside


def on_latent(mask: Tensor, size: Size) -> Tensor:
    """A mask [B, 1, H, W] on a latent of size (h, w): of each latent pixel the whitest of its part of the
    picture, so that no thin line is lost, and 0 where that is faint."""
    mask = adaptive_max_pool2d(mask, size).clamp(max=1)
    return mask * (mask >= FAINT)
