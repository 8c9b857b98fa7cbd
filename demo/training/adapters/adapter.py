"""What a GLIGEN of the demo is, and what it learns from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....gligen_ops.entities import Entity
from ....gligen_ops.kinds import KINDS, Kind
from ....gligen_ops.layers.first_conv import FirstConv
from ....gligen_ops.places import Box
from ... import models, world
from .. import data, train_vae

WIDTH = models.CONTEXT
KEEP = 0.9  # share of a scene's things that are grounded: the rest come from the caption alone


@dataclass(frozen=True)
class Example:
    """How a scene is grounded. beside: the entity that the first convolution looks at."""

    entities: list
    regions: Tensor  # corners xyxy of each grounding token's, [G, 4]; zeros: none
    beside: Entity | None = None


class Adapter(ABC):
    """One GLIGEN over the frozen base. name: of its file and stage. kind: its name in `KINDS`. seed: and
    steps: of its training. start: the adapter whose gated layers it begins with. scenes and latents
    [N, 4, 16, 16] are made by `prepare`."""

    name: str
    kind: str
    seed: int
    steps: int
    start: str | None = None
    scenes: list[world.Scene]
    latents: Tensor

    def __init__(self):
        self.tokenizer = self.new_tokenizer()

    @abstractmethod
    def new_tokenizer(self) -> nn.Module: ...

    def first_conv(self, base: nn.Conv2d) -> FirstConv | None:
        return None

    def begin(self, tokenizer: nn.Module, steps: int) -> None:
        """Have the own tokenizer begin like that of `start`, where that helps. steps: of the training
        that follows."""
        return

    def prepare(self, text: nn.Module) -> None:
        """Load what examples are made of. text: the base's text encoder."""
        self.scenes = data.scenes()
        self.latents = data.latents(train_vae.trained(), self.scenes)

    @abstractmethod
    def example(self, index: int, rng) -> Example:
        """Of the scene with this index."""

    @property
    def gligen_kind(self) -> Kind:
        return next(kind for kind in KINDS if kind.name == self.kind)

    def caption(self, index: int, rng) -> str:
        return world.caption(self.scenes[index], rng)

    def regions(self, boxes: list[Box]) -> Tensor:
        """Each grounding token's region is the box of its entity; none where there is no entity. [G, 4]"""
        regions = torch.zeros(len(self.tokenizer.slot_of_token), 4)
        for token, owner in enumerate(self.tokenizer.slot_of_token):
            if owner < len(boxes):
                box = boxes[owner]
                regions[token] = torch.tensor([box.x0, box.y0, box.x1, box.y1])
        return regions


def no_held_out(scene: world.Scene) -> bool:
    """Grounding data has no held-out pair, so that they can tell whether grounding generalises."""
    return not any((t.colour, t.shape) in world.HELD_OUT for t in scene.things)


def features_of(text: nn.Module, phrases: list[str]) -> dict[str, Tensor]:
    """The text encoder's pooled feature of each phrase, [F]."""
    with torch.no_grad():
        return dict(zip(phrases, text(data.Tokens()(phrases))[3], strict=True))
