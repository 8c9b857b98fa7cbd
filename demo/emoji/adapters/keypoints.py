"""Keypoints: persons in given poses."""

import torch

from ....gligen_ops.tokenizers.keypoints import PERSONS, POINTS, KeypointTokenizer
from .. import data, first_stage
from ..device import DEVICE
from .adapter import HIDDEN, WIDTH, Adapter, Examples, in_slots

MISSING = 0.05  # share of points
REACH = 0.07  # of a point's region to each side: a place of the 8 × 8 visual tokens is 0.125 wide


class Keypoints(Adapter):
    name, kind, seed = "keypoints", "keypoints", 8

    def new_tokenizer(self):
        return KeypointTokenizer(WIDTH, hidden=HIDDEN)

    def prepare(self, text):
        self.scenes = data.scenes("persons", data.COUNT // 4, seed=9)
        self.latents = first_stage.latents(self.scenes)
        self.usable = torch.arange(len(self.scenes), device=DEVICE)

    def examples(self, at):
        joints = self.scenes.joints[at]  # [B, 4, 17, 2]
        there = (joints != 0).any(-1) & (torch.rand(joints.shape[:-1], device=DEVICE) > MISSING)
        points = in_slots(joints * there[..., None], PERSONS).view(len(at), PERSONS * POINTS, 2)
        mask = in_slots(there, PERSONS).view(len(at), PERSONS * POINTS)
        regions = torch.cat([points - REACH, points + REACH], -1) * mask[..., None]
        return Examples((points, mask), regions, self.captions(at))
