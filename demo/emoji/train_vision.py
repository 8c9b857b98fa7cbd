"""The demo's CLIP vision model, and the text projection into the space that it shares with the text
encoder: trained as CLIP is, to tell which text goes with a picture, the text encoder frozen."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from ...gligen_ops.tokenizers.image_prompt import image_feature
from ..models import CONTEXT, VISION, vision_encoder
from . import data, train_base, world
from .device import DEVICE, graphed, number
from .stages import RUN, load_weights, save_weights

BATCH = {"cuda": 256, "cpu": 48}[DEVICE.type]
PROJECTION = "text_projection.weight"
MOMENTS = len(data.MOMENTS)


def pictures(count: int, seed: int) -> data.Scenes:
    """Scenes of one thing each."""
    return data.scenes("single", count, seed)


def pixels(picture: Tensor) -> Tensor:
    """uint8 [B, 128, 128, 3] as the host gives it to a CLIP vision model."""
    from comfy.clip_model import clip_preprocess

    return clip_preprocess(picture.float() / 255, VISION["image_size"])


class Loss(nn.Module):
    """Cross-entropy over the texts of all things at all times under all lights."""

    def __init__(self, vision: nn.Module, text: nn.Module):
        super().__init__()
        self.vision = vision
        self.projection = nn.Linear(CONTEXT, CONTEXT, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.3))
        scenes = pictures(data.COUNT // 4, seed=13)
        texts = [
            " ".join(filter(None, (world.phrase_of(name), *moment)))
            for name in world.NAMES
            for moment in data.MOMENTS
        ]
        self.texts = train_base.features_of(text, texts)
        self.labels = scenes.name[:, 0] * MOMENTS + scenes.moment
        self.pixels = torch.cat([pixels(part) for part in scenes.picture.split(500)])

    def forward(self, _: Tensor) -> Tensor:
        picked = torch.randint(len(self.labels), (BATCH,), device=DEVICE)
        x = self.pixels[picked]
        x = x + 0.1 * torch.randn(1, device=DEVICE) + 0.05 * torch.randn_like(x)
        images = F.normalize(self.vision(pixel_values=x)[2], dim=-1)
        texts = F.normalize(self.projection(self.texts), dim=-1)
        return F.cross_entropy(self.scale.exp() * images @ texts.T, self.labels[picked])


def train(steps: int) -> None:
    torch.manual_seed(12)
    text = train_base.trained()[1]
    loss = Loss(vision_encoder(), text).to(DEVICE)
    groups = [{"params": list(loss.parameters()), "lr": 1.5e-3}]
    run = graphed(loss, number(0))
    fit(RUN / "vision.pt", loss, groups, lambda step: run(number(step)), steps)
    weights = loss.projection.weight.detach()
    save_weights("vision", {**loss.vision.state_dict(), PROJECTION: weights})


def trained() -> tuple[nn.Module, Tensor]:
    """The vision model, and the text projection P_t [S, F]."""
    tensors = load_weights("vision")
    projection = tensors.pop(PROJECTION)
    vision = vision_encoder().to(DEVICE)
    vision.load_state_dict(tensors)
    return vision.eval().requires_grad_(False), projection


@dataclass(frozen=True)
class References:
    """Features of pictures of one thing each, as GLIGEN takes them, by what is to be seen there."""

    feature: Tensor  # [R, F]
    by_name: Tensor  # [names, K], indices of the pictures of each
    by_moment: Tensor  # [moments, K]

    def of_name(self, name: Tensor) -> Tensor:
        """A picture of each thing: indices of names [B, K] → [B, K, F]."""
        return self.feature[_any(self.by_name[name.clamp(min=0)])]

    def of_moment(self, moment: Tensor) -> Tensor:
        """A picture at each moment: indices of moments [B] → [B, F]."""
        return self.feature[_any(self.by_moment[moment])]


def _any(rows: Tensor) -> Tensor:
    picked = torch.randint(rows.shape[-1], (*rows.shape[:-1], 1), device=rows.device)
    return rows.gather(-1, picked)[..., 0]


@torch.no_grad()
def references() -> References:
    vision, projection = trained()
    scenes = pictures(max(600, data.COUNT // 10), seed=16)
    parts = [vision(pixel_values=pixels(part))[2] for part in scenes.picture.split(500)]
    feature = image_feature(torch.cat(parts), projection)
    return References(
        feature, _rows(scenes.name[:, 0], len(world.NAMES)), _rows(scenes.moment, MOMENTS)
    )


def _rows(label: Tensor, labels: int) -> Tensor:
    """Indices of the examples with each label, as many for each as the rarest has."""
    found = [(label == one).nonzero()[:, 0] for one in range(labels)]
    least = min(map(len, found))
    return torch.stack([indices[:least] for indices in found])
