"""The eye that measures, on the world's own scenes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from . import data, maps, world
from .device import DEVICE, constant, graphed, half, number
from .eye import CLASSES, SIDE, Eye, Sight
from .stages import RUN, save_weights

BATCH = {"cuda": 128, "cpu": 24}[DEVICE.type]
MIDDLE = 0.09  # of a thing's box, in which the map of its kind is to be high


class Loss(nn.Module):
    """What the eye gets wrong on the world's pictures, some of them blurred, noisy or a little off in colour
    as a model's are."""

    def __init__(self, eye: nn.Module):
        super().__init__()
        self.eye = eye
        self.scenes = data.scenes("mixed")

    def forward(self, _: Tensor) -> Tensor:
        at = torch.randint(len(self.scenes), (BATCH,), device=DEVICE)
        with half():
            seen = self.eye(spoilt(data.pixels(self.scenes.picture[at])))
        return wrong(seen, self.scenes, at)


def spoilt(x: Tensor) -> Tensor:
    def chance():
        return torch.rand(len(x), 1, 1, 1, device=DEVICE)

    blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
    x = torch.lerp(x, blurred, chance() * (chance() < 0.5))
    x = x + 0.15 * chance() * torch.randn_like(x)
    return x * (0.85 + 0.3 * chance()) + 0.1 * torch.randn(len(x), 3, 1, 1, device=DEVICE)


def wrong(seen: Sight, scenes: data.Scenes, at: Tensor) -> Tensor:
    name, box = scenes.name[at], scenes.box[at]
    kinds, edges, inside = targets(name, box)
    sure = seen.kinds.sigmoid()
    focal = F.binary_cross_entropy_with_logits(seen.kinds, kinds, reduction="none")
    focal = focal * (kinds - sure).square()
    # A place answers for the box of the thing that it lies in.
    off = (seen.edges - edges).abs().sum(1) * inside
    depth, normal = (
        F.interpolate(t, (SIDE, SIDE), mode="area")
        for t in (maps.depth(scenes, at), maps.normal(scenes, at))
    )
    classes = maps.classes(scenes, at)[:, 2::4, 2::4]
    classes = torch.searchsorted(constant(*CLASSES), classes)
    time = constant(*(list(world.TIMES).index(time) for time, _ in data.MOMENTS))
    return (
        focal.sum() / (name >= 0).sum()
        + 2 * off.sum() / inside.sum()
        + 2 * F.l1_loss(seen.depth, depth)
        + 2 * F.l1_loss(seen.normal, normal)
        + 0.5 * F.cross_entropy(seen.classes, classes)
        + 0.2 * F.cross_entropy(seen.time.float(), time[scenes.moment[at]])
    )


def targets(name: Tensor, box: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `kinds` and `edges` are to be, and the places that lie in a thing's middle, [B, 32, 32]."""
    centre = (torch.arange(SIDE, device=DEVICE) + 0.5) / SIDE
    y, x = centre[:, None], centre[None, :]
    x0, y0, x1, y1 = (edge[..., None, None] for edge in box.unbind(-1))  # [B, K, 1, 1]
    away = ((x - (x0 + x1) / 2) / (x1 - x0).clamp(min=0.05)).square()
    away = away + ((y - (y0 + y1) / 2) / (y1 - y0).clamp(min=0.05)).square()
    there = (name >= 0)[..., None, None]
    peak = torch.exp(-away / (2 * MIDDLE**2)) * there  # [B, K, 32, 32]
    kinds = torch.zeros(len(name), len(world.NAMES), SIDE, SIDE, device=DEVICE)
    index = name.clamp(min=0)[..., None, None].expand_as(peak)
    kinds = kinds.scatter_reduce(1, index, peak, "amax")
    inside = (away < 0.09) & there
    edges = torch.stack(
        torch.broadcast_tensors(x - x0, y - y0, x1 - x, y1 - y), 2
    )  # [B, K, 4, 32, 32]
    edges = (edges * inside[:, :, None]).sum(1)
    return kinds, edges, inside.any(1).float()


def train(steps: int) -> None:
    torch.manual_seed(17)
    eye = Eye().to(DEVICE)
    loss = graphed(Loss(eye), number(0))
    groups = [{"params": list(eye.parameters()), "lr": 2e-3}]
    fit(RUN / "eye.pt", eye, groups, lambda step: loss(number(step)), steps)
    save_weights("eye", eye.state_dict())
