"""An eye for the demo world: finds the coloured things of a picture and measures where they are."""

import colorsys
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from ..world import COLOURS, SHAPES, Box, Thing, silhouette

CANNY = (0.1, 0.2)  # low and high threshold
SLACK = 2  # pixels that an edge may be off


@dataclass(frozen=True)
class Found:
    colour: str
    shape: str
    box: Box


def detect(picture: np.ndarray, minimum: float = 0.004) -> list[Found]:
    """Coloured things in a picture [H, W, 3] of 0..1: connected regions of one of the world's
    colours that cover at least `minimum` of the image, named by the silhouette that fits best."""
    height, width = picture.shape[:2]
    found = []
    for colour, mask in masks(picture).items():
        regions, count = ndimage.label(mask)
        for number, (rows, columns) in enumerate(ndimage.find_objects(regions, count), start=1):
            region = regions[rows, columns] == number
            if region.sum() < minimum * height * width or min(region.shape) < 3:
                continue
            box = (columns.start / width, rows.start / height,
                   columns.stop / width, rows.stop / height)  # fmt: skip
            found.append(Found(colour, _best_shape(region), box))
    return found


def masks(picture: np.ndarray) -> dict[str, np.ndarray]:
    """Where a picture [H, W, 3] of 0..1 has each colour of the world, specks left out. [H, W]"""
    nearest = _nearest_colour(picture)
    return {
        colour: ndimage.binary_opening(nearest == index, np.ones((2, 2)))
        for index, colour in enumerate(COLOURS)
    }


def share_of(picture: np.ndarray, colour: str) -> float:
    """Of a picture's coloured pixels, those of one colour; 0 where there are none."""
    sizes = {name: mask.sum() for name, mask in masks(picture).items()}
    return float(sizes[colour] / max(1, sum(sizes.values())))


def edges(picture: np.ndarray) -> torch.Tensor:
    """Of a picture [H, W, 3] of 0..1, as the host's Canny node finds them: 0 or 1, [1, H, W]."""
    from kornia.filters import canny

    return canny(torch.from_numpy(picture).movedim(-1, 0)[None], *CANNY)[1][0]


def _nearest_colour(picture: np.ndarray) -> np.ndarray:
    """[H, W] index into COLOURS by hue, -1 where the picture is too grey to tell."""
    low, high = picture.min(-1), picture.max(-1)
    chroma = high - low
    saturation = chroma / np.maximum(high, 1e-6)
    r, g, b = np.moveaxis(picture, -1, 0)
    c = np.maximum(chroma, 1e-6)
    hue = np.select([high == r, high == g], [(g - b) / c % 6, (b - r) / c + 2], (r - g) / c + 4) / 6
    hues = np.array([colorsys.rgb_to_hsv(*(v / 255 for v in rgb))[0] for rgb in COLOURS.values()])
    distance = np.abs((hue[..., None] - hues + 0.5) % 1 - 0.5)
    return np.where(saturation > 0.4, distance.argmin(-1), -1)


def _best_shape(region: np.ndarray) -> str:
    """The shape whose silhouette, stretched to the region, overlaps it most."""
    fitted = Image.fromarray(region).convert("L").resize((48, 48), Image.Resampling.BILINEAR)
    region = np.asarray(fitted) > 127
    scores = {
        shape: (region & mask).sum() / (region | mask).sum() for shape, mask in _templates().items()
    }
    return max(scores, key=scores.get)


@cache
def _templates() -> dict[str, np.ndarray]:
    """Each shape's silhouette in a box of 48 × 48."""
    everything = (0.0, 0.0, 1.0, 1.0)
    masks = {s: np.asarray(silhouette(Thing("red", s, everything), 48)) for s in SHAPES}
    return {shape: mask > 127 for shape, mask in masks.items()}


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / area if area > 0 else 0.0


def box_accuracy(found: list[Found], colour: str, shape: str, box: Box) -> float:
    """IoU of the box with the best-placed thing of this colour and shape; 0 where there is none."""
    return max(
        (iou(f.box, box) for f in found if (f.colour, f.shape) == (colour, shape)), default=0
    )


def edge_agreement(found: torch.Tensor, wanted: torch.Tensor, slack: int = SLACK) -> float:
    """F1 of edges [H, W], each right where the other has one no more than `slack` pixels away."""
    found, wanted = (e.numpy() > 0 for e in (found, wanted))
    near = [ndimage.binary_dilation(e, iterations=slack) for e in (found, wanted)]
    precision = (found & near[1]).sum() / max(1, found.sum())
    recall = (wanted & near[0]).sum() / max(1, wanted.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))
