"""Keypoints: persons in given poses."""

import numpy as np
import torch

from ....gligen_ops.entities import Pose
from ....gligen_ops.tokenizers.keypoints import POINTS, KeypointTokenizer
from ... import world
from .. import data, train_vae
from .adapter import WIDTH, Adapter, Example

COUNT = 6000
MISSING = 0.05  # share of points
REACH = 0.07  # of a point's region to each side: a place of the 8 × 8 visual tokens is 0.125 wide


class Keypoints(Adapter):
    name, kind, seed, steps = "keypoints", "keypoints", 8, 1600

    def new_tokenizer(self):
        return KeypointTokenizer(WIDTH)

    def prepare(self, text):
        rng = np.random.default_rng(9)
        count = min(COUNT, data.COUNT)
        self.scenes = [world.Scene.persons(rng) for _ in range(count)]
        self.latents = data.latents(train_vae.trained(), self.scenes, "persons")

    def example(self, index, rng):
        poses = [Pose(points_of(t, rng)) for t in self.scenes[index].things]
        (points,), (there,) = self.tokenizer.inputs(poses)
        regions = torch.cat([points - REACH, points + REACH], dim=-1) * there[:, None]
        return Example(poses, regions)


def points_of(person: world.Thing, rng) -> torch.Tensor:
    """[17, 2], some of them missing."""
    points = torch.tensor(person.joints, dtype=torch.float32)
    return points * torch.from_numpy(rng.random((POINTS, 1)) >= MISSING)
