"""An eye for poses: finds the 17 joints of a person in a picture. A small network, trained on persons that
the world's brush painted."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from . import data, eye, world
from .device import DEVICE, graphed, number
from .stages import RUN, load_weights, save_weights
from .train_eye import spoilt

SIDE = 64
BATCH = 128
AROUND = 0.12  # of a box, to each side, that is looked at as well


class JointFinder(nn.Module):
    """Persons in their squares [B, 3, 64, 64] → joints xy there, 0..1, [B, 17, 2]."""

    def __init__(self):
        super().__init__()
        widths = (3, 16, 32, 48, 48)
        layers = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.joints = nn.Sequential(nn.Linear(48 * 16, 96), nn.SiLU(), nn.Linear(96, 34))

    def forward(self, x: Tensor) -> Tensor:
        return self.joints(self.features(x)).unflatten(1, (17, 2)) + 0.5


def squares(x: Tensor, box: Tensor) -> Tensor:
    """What is in the boxes [B, 4], and a little around them, of pictures [B, 3, H, W]. [B, 3, 64, 64]"""
    low, high = box[:, :2], box[:, 2:]
    centre, half = low + high - 1, (0.5 + AROUND) * 2 * (high - low) / 2
    step = (torch.arange(SIDE, device=x.device) + 0.5) / SIDE * 2 - 1
    across = (centre[:, :1] + half[:, :1] * step)[:, None, :].expand(-1, SIDE, -1)
    down = (centre[:, 1:] + half[:, 1:] * step)[:, :, None].expand(-1, -1, SIDE)
    grid = torch.stack([across, down], -1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def placed(joints: Tensor, box: Tensor) -> Tensor:
    """Joints [B, 17, 2] in the squares of boxes → in the picture."""
    low, high = box[:, None, :2], box[:, None, 2:]
    size = high - low
    return low - AROUND * size + joints * (1 + 2 * AROUND) * size


class Loss(nn.Module):
    def __init__(self, finder: nn.Module):
        super().__init__()
        self.finder = finder
        self.scenes = data.scenes("persons", data.COUNT // 4, seed=18)

    def forward(self, _: Tensor) -> Tensor:
        at = torch.randint(len(self.scenes), (BATCH,), device=DEVICE)
        box, joints = self.scenes.box[at, 0], self.scenes.joints[at, 0]
        size = box[:, 2:] - box[:, :2]
        off = 0.06 * torch.randn(BATCH, 4, device=DEVICE) * size.repeat(1, 2)
        found = self.finder(squares(spoilt(data.pixels(self.scenes.picture[at])), box + off))
        error = (placed(found, box + off) - joints) / size[:, None]
        return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.02)


def train(steps: int) -> None:
    torch.manual_seed(17)
    finder = JointFinder().to(DEVICE)
    loss = graphed(Loss(finder), number(0))
    groups = [{"params": list(finder.parameters()), "lr": 2e-3}]
    fit(RUN / "joints.pt", finder, groups, lambda step: loss(number(step)), steps)
    save_weights("joints", finder.state_dict())


@cache
def trained() -> JointFinder:
    finder = JointFinder()
    finder.load_state_dict(load_weights("joints", "cpu"))
    return finder.eval().requires_grad_(False)


def find(picture: np.ndarray, name: str, near: world.Box) -> np.ndarray | None:
    """Joints [17, 2] of the person of this name that lies best in a box, as fractions of the picture [128,
    128, 3] of 0..1; None where there is none."""
    persons = [thing for thing in eye.detect(picture) if thing.name == name]
    if not persons:
        return None
    box = torch.tensor([max(persons, key=lambda person: eye.iou(person.box, near)).box])
    x = torch.from_numpy(picture).float().movedim(-1, 0)[None] * 2 - 1
    return placed(trained()(squares(x, box)), box)[0].numpy()
