"""The network that finds joints, on silhouettes of the world's brush."""

import numpy as np
import torch
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from .. import world
from . import data
from .joints import SIDE, JointFinder, square
from .stages import RUN, save_weights

BATCH = 64
SILHOUETTES = 12000


def silhouettes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Persons in their squares [N, 1, 48, 48], and their joints there [N, 17, 2]."""
    rng = np.random.default_rng(seed)
    squares, joints = [], []
    for _ in range(count):
        person = world.Scene.persons(rng, 1).things[0]
        mask = np.asarray(world.silhouette(person)) > rng.integers(60, 200)
        image, box = square(mask)
        squares.append(image)
        corner, extent = box[:2], box[2:] - box[:2]
        joints.append((np.array(person.joints) * world.SIZE - corner) / extent)
    return torch.stack(squares), torch.tensor(np.stack(joints), dtype=torch.float32)


def train(steps: int) -> None:
    torch.manual_seed(17)
    x, y = silhouettes(min(SILHOUETTES, data.COUNT), seed=18)
    finder = JointFinder()

    def loss(step: int) -> torch.Tensor:
        picked = torch.randint(len(x), (BATCH,))
        noisy = x[picked] + 0.1 * torch.randn(BATCH, 1, SIDE, SIDE)
        return F.smooth_l1_loss(finder(noisy), y[picked], beta=0.02)

    fit(RUN / "joints.pt", finder, [{"params": list(finder.parameters()), "lr": 2e-3}], loss, steps)
    save_weights("joints", finder.state_dict())
