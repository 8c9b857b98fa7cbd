"""Maps of the demo world's scenes, as they are known from the composition: edges, depth, normals, classes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from . import world
from .data import Scenes
from .device import constant
from .drawing import FIRST, GROUND
from .world import SIZE

CANNY = (0.1, 0.2)  # low and high threshold
ADE20K = {  # name: number of the class
    "wall": 1, "building": 2, "sky": 3, "tree": 5, "grass": 10, "person": 13, "earth": 14, "table": 16,
    "plant": 18, "car": 21, "house": 26, "sea": 27, "box": 42, "sand": 47, "flower": 67, "boat": 77,
    "airplane": 91, "plaything": 109, "ball": 120, "food": 121, "pot": 126, "animal": 127,
    "sculpture": 133, "clock": 149,
}  # fmt: skip
BULGE = 6.0  # pixels that a thing stands out by
UP = (0.0, 0.8, 0.6)  # normal of the ground


def hed(scenes: Scenes, at: Tensor) -> Tensor:
    """Soft edges of the scenes with these indices, [B, 1, 128, 128] in 0..1."""
    grey = scenes.picture[at].float().mean(-1)[:, None] / 255
    grey = F.avg_pool2d(F.pad(grey, (2, 2, 2, 2), mode="replicate"), 3, 1)
    across = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]).square()
    down = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]).square()
    return (4 * (across + down).sqrt()).clamp(max=1)


def canny(picture: Tensor) -> Tensor:
    """uint8 [N, 128, 128, 3] → edges as the host's Canny node finds them, uint8 [N, 1, 128, 128], 0 or 1."""
    from kornia.filters import canny as edges

    parts = (edges(part.movedim(-1, 1).float() / 255, *CANNY)[1] for part in picture.split(250))
    return torch.cat([part.to(torch.uint8) for part in parts])


def depth(scenes: Scenes, at: Tensor) -> Tensor:
    """1 near, 0 far away. Things are as near as the ground under them. [B, 1, 128, 128]"""
    y = (torch.arange(SIZE, device=at.device) + 0.5) / SIZE
    horizon = scenes.horizon[at][:, None]
    ground = 0.15 + 0.75 * ((y - horizon) / (1 - horizon)).clamp(min=0)  # [B, 128]
    things = 0.2 + 0.6 * scenes.box[at][..., 3]  # [B, 4]
    owner, height = scenes.owner[at].long(), scenes.height[at].float() / 255
    thing = things.gather(1, (owner - FIRST).clamp(min=0).flatten(1)).view_as(height) + 0.2 * height
    value = torch.where(owner >= FIRST, thing, (owner == GROUND) * ground[:, :, None])
    return value[:, None].clamp(max=1)


def normal(scenes: Scenes, at: Tensor) -> Tensor:
    """Unit normals: x to the right, y up, z to the viewer, as 0.5 + n / 2. [B, 3, 128, 128]"""
    owner, height = scenes.owner[at], scenes.height[at].float()[:, None] * BULGE / 255
    height = F.avg_pool2d(F.pad(height, (2, 2, 2, 2)), 3, 1)
    across = (height[..., 1:-1, 2:] - height[..., 1:-1, :-2]) / 2
    down = (height[..., 2:, 1:-1] - height[..., :-2, 1:-1]) / 2
    thing = F.normalize(torch.cat([-across, down, torch.ones_like(across)], 1), dim=1)
    ground, facing = constant(*UP).view(3, 1, 1), constant(0.0, 0.0, 1.0).view(3, 1, 1)
    owner = owner[:, None]
    value = torch.where(owner >= FIRST, thing, torch.where(owner == GROUND, ground, facing))
    return 0.5 + value / 2


def classes(scenes: Scenes, at: Tensor) -> Tensor:
    """Class of each place among those of ADE20K, [B, 128, 128]."""
    grounds = [ADE20K[kind] for _, kind in world.PLACES.values()]
    skies = [ADE20K["wall" if place == "on a table" else "sky"] for place in world.PLACES]
    things = [ADE20K[world.THINGS.get(name, "person")] for name in world.NAMES]
    skies, grounds, things = (constant(*classes) for classes in (skies, grounds, things))
    place = scenes.place[at]
    table = torch.cat(
        [skies[place][:, None], grounds[place][:, None], things[scenes.name[at]]], dim=1
    )  # [B, 6], the class of each owner
    owner = scenes.owner[at].long()
    return table.gather(1, owner.flatten(1)).view_as(owner)
