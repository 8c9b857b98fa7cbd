"""An eye for poses: finds the 17 joints of a person in a picture, by the person's silhouette.

A small network, trained on silhouettes that the world's brush painted (train_joints.py); it never sees
a picture that the demo model made until it measures one.
"""

from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from . import eye
from .stages import load_weights

SIDE = 48
SMALLEST = 0.01  # share of the picture that a person covers


class JointFinder(nn.Module):
    """A silhouette filling its square [B, 1, 48, 48] → joints xy in it, 0..1, [B, 17, 2]."""

    def __init__(self):
        super().__init__()
        widths = (1, 16, 32, 48)
        layers = []
        for before, width in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        inputs = widths[-1] * (SIDE // 8) ** 2
        self.joints = nn.Sequential(nn.Linear(inputs, 96), nn.SiLU(), nn.Linear(96, 34))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.joints(self.features(x)).unflatten(1, (17, 2)) + 0.5


def square(mask: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """A mask [H, W] of 0 or 1, cut out and stretched to the square [1, 48, 48], and its box xyxy in
    pixels."""
    rows, columns = ndimage.find_objects((mask > 0).astype(int))[0]
    cut = torch.from_numpy(mask[rows, columns].astype(np.float32))[None, None]
    box = np.array([columns.start, rows.start, columns.stop, rows.stop], dtype=np.float64)
    return F.interpolate(cut, (SIDE, SIDE), mode="bilinear", antialias=True)[0], box


@cache
def trained() -> JointFinder:
    finder = JointFinder()
    finder.load_state_dict(load_weights("joints"))
    return finder.eval()


@torch.no_grad()
def find(picture: np.ndarray, colour: str) -> np.ndarray | None:
    """Joints [17, 2] of the largest thing of a colour in a picture [H, W, 3] of 0..1, as fractions of
    the picture; None where there is nothing of that colour."""
    regions, count = ndimage.label(eye.masks(picture)[colour])
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() < SMALLEST * regions.size:
        return None
    image, box = square(regions == 1 + sizes.argmax())
    joints = trained()(image[None])[0].numpy() * (box[2:] - box[:2]) + box[:2]
    return joints / picture.shape[1::-1]
