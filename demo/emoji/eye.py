"""An eye for the demo world: a small network that finds the things of a picture and their boxes, and sees
depth, normals, classes and the time of day.

It is trained on the world's own scenes (train_eye.py), and never sees a picture that the demo model made
until it measures one. Things are found as the peaks of a map a kind ("Objects as Points", arXiv 1904.07850).
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from . import maps, world
from .stages import load_weights
from .world import Box

SIDE = 32  # places in each direction that it answers for
CLASSES = sorted(set(maps.ADE20K.values()))
FOUND = 0.3  # how sure it has to be of a thing
SLACK = 2  # pixels that an edge may be off


class Sight(NamedTuple):
    kinds: Tensor  # [B, names, 32, 32], logits: the middle of a thing of this name
    edges: Tensor  # [B, 4, 32, 32], from here to the left, upper, right and lower edge of the thing
    depth: Tensor  # [B, 1, 32, 32], 0..1
    normal: Tensor  # [B, 3, 32, 32], as a normal map has it
    classes: Tensor  # [B, len(CLASSES), 32, 32], logits
    time: Tensor  # [B, 3], logits of world.TIMES


class Eye(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        self.stem = nn.Sequential(block(3, 24, 2), block(24, width, 2))
        self.around = nn.Sequential(block(width, width, 2), block(width, width), block(width, width, 2),
                                    block(width, width))  # fmt: skip
        self.fine = nn.Sequential(block(2 * width, width), block(width, width))
        sizes = (len(world.NAMES), 4, 1, 3, len(CLASSES))
        self.heads = nn.ModuleList(nn.Conv2d(width, size, 1) for size in sizes)
        self.time = nn.Linear(width, len(world.TIMES))
        nn.init.constant_(self.heads[0].bias, -4.0)

    def forward(self, x: Tensor) -> Sight:
        """x: [B, 3, 128, 128] in -1..1."""
        near = self.stem(x)
        far = F.interpolate(self.around(near), near.shape[-2:], mode="bilinear")
        h = self.fine(torch.cat([near, far], 1))
        kinds, edges, depth, normal, classes = (head(h).float() for head in self.heads)
        return Sight(kinds, F.softplus(edges), depth, normal, classes, self.time(far.mean((2, 3))))


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU(),
        nn.Conv2d(after, after, 3, 1, 1, groups=8), nn.GroupNorm(8, after), nn.SiLU(),
    )  # fmt: skip


@dataclass(frozen=True)
class Found:
    name: str
    box: Box
    sure: float


@cache
def trained() -> Eye:
    eye = Eye()
    eye.load_state_dict(load_weights("eye", "cpu"))
    return eye.eval().requires_grad_(False)


def sight(picture: np.ndarray) -> Sight:
    """Of a picture [128, 128, 3] of 0..1."""
    return trained()(torch.from_numpy(picture).float().movedim(-1, 0)[None] * 2 - 1)


def detect(picture: np.ndarray) -> list[Found]:
    """The things in a picture [128, 128, 3] of 0..1, the surest first."""
    return things_of(sight(picture))[0]


def things_of(seen: Sight) -> list[list[Found]]:
    """Of each picture: the peaks of each kind's map, where no other kind is surer."""
    sure = seen.kinds.sigmoid()
    best, kind = sure.max(1)
    peaks = (best == F.max_pool2d(best[:, None], 5, 1, 2)[:, 0]) & (best > FOUND)
    found: list[list[Found]] = [[] for _ in range(len(best))]
    for b, y, x in peaks.nonzero().tolist():
        left, up, right, down = seen.edges[b, :, y, x].tolist()
        u, v = (x + 0.5) / SIDE, (y + 0.5) / SIDE
        box = (u - left, v - up, u + right, v + down)
        found[b].append(Found(world.NAMES[kind[b, y, x]], box, float(best[b, y, x])))
    return [sorted(things, key=lambda thing: -thing.sure) for things in found]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / area if area > 0 else 0.0


def box_accuracy(found: list[Found], name: str, box: Box) -> float:
    """IoU of the box with the best-placed thing of this name; 0 where there is none."""
    return max((iou(thing.box, box) for thing in found if thing.name == name), default=0.0)


def edges(picture: np.ndarray) -> Tensor:
    """Of a picture [H, W, 3] of 0..1, as the host's Canny node finds them: 0 or 1, [1, H, W]."""
    return maps.canny(torch.from_numpy((picture * 255).round().astype(np.uint8))[None])[0]


def edge_agreement(found: Tensor, wanted: Tensor, slack: int = SLACK) -> float:
    """F1 of edges [H, W], each right where the other has one no more than `slack` pixels away."""
    found, wanted = (e.numpy() > 0 for e in (found, wanted))
    near = [ndimage.binary_dilation(e, iterations=slack) for e in (found, wanted)]
    precision = (found & near[1]).sum() / max(1, found.sum())
    recall = (wanted & near[0]).sum() / max(1, wanted.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))
