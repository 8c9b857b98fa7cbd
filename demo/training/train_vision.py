"""The demo's CLIP vision model, and the text projection into the space that it shares with the text
encoder: trained as CLIP is, to tell which phrase goes with a picture, the text encoder frozen."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from ...gligen_ops.learning.training import freeze
from ...gligen_ops.tokenizers.image_prompt import image_feature
from .. import models, world
from . import data, train_base
from .stages import RUN, load_weights, save_weights

BATCH = 48
PICTURES = 6000
PROJECTION = "text_projection.weight"
LABELS = [*world.pairs(), *((colour, world.FIGURE) for colour in world.COLOURS)]


def phrase_of(label: tuple[str, str]) -> str:
    return f"a {label[0]} {label[1]}"


def reference(label: tuple[str, str], rng) -> np.ndarray:
    """A picture [64, 64, 3] of one thing, large and nearly in the middle."""
    colour, shape = label
    if shape == world.FIGURE:
        thing = replace(world.Scene.persons(rng, 1).things[0], colour=colour)
    else:
        w, h = rng.uniform(0.35, 0.9, 2)
        x, y = rng.uniform(0.03, 0.97 - w), rng.uniform(0.03, 0.97 - h)
        thing = world.Thing(colour, shape, (x, y, x + w, y + h))
    return world.render(world.Scene.lit(rng, [thing]), models.VISION["image_size"])


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """[B, H, W, 3] of 0..1 as the host gives them to a CLIP vision model."""
    from comfy.clip_model import clip_preprocess

    return clip_preprocess(torch.from_numpy(pictures), models.VISION["image_size"])


def train(steps: int) -> None:
    torch.manual_seed(12)
    text = freeze(train_base.trained()[1])
    with torch.no_grad():
        phrases = text(data.Tokens()([phrase_of(label) for label in LABELS]))[3]  # [48, F]
    rng = np.random.default_rng(13)
    labels = rng.integers(len(LABELS), size=min(PICTURES, data.COUNT))
    pictures = pixels(np.stack([reference(LABELS[i], rng) for i in labels]))
    labels = torch.from_numpy(labels)
    vision = models.vision_encoder()
    projection = nn.Linear(models.CONTEXT, models.CONTEXT, bias=False)
    scale = nn.Parameter(torch.tensor(2.3))
    modules = nn.ModuleDict({"vision": vision, "projection": projection})
    modules.register_parameter("scale", scale)

    def loss(step: int) -> torch.Tensor:
        picked = torch.randint(len(labels), (BATCH,))
        x = pictures[picked] + 0.1 * torch.randn(1) + 0.05 * torch.randn_like(pictures[picked])
        images = F.normalize(vision(pixel_values=x)[2], dim=-1)
        texts = F.normalize(projection(phrases), dim=-1)
        return F.cross_entropy(scale.exp() * images @ texts.T, labels[picked])

    groups = [{"params": list(modules.parameters()), "lr": 1.5e-3}]
    fit(RUN / "vision.pt", modules, groups, loss, steps)
    save_weights("vision", {**vision.state_dict(), PROJECTION: projection.weight.detach()})


def trained() -> tuple[nn.Module, torch.Tensor]:
    """The vision model, and the text projection P_t [S, F]."""
    tensors = load_weights("vision")
    projection = tensors.pop(PROJECTION)
    vision = models.vision_encoder()
    vision.load_state_dict(tensors)
    return freeze(vision), projection


@torch.no_grad()
def references(count: int, seed: int) -> dict[tuple[str, str], torch.Tensor]:
    """Features [count, F] of pictures of each colour and shape, as GLIGEN takes them."""
    vision, projection = trained()
    rng = np.random.default_rng(seed)
    features = {}
    for label in LABELS:
        pictures = pixels(np.stack([reference(label, rng) for _ in range(count)]))
        features[label] = image_feature(vision(pixel_values=pictures)[2], projection)
    return features
