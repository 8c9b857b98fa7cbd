"""What a GLIGEN of the demo is, and what it learns from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ....gligen_ops.kinds import KINDS, Kind
from ....gligen_ops.layers.first_conv import FirstConv
from ....gligen_ops.learning.training import widened
from ....gligen_ops.model import Gligen
from ...models import CONTEXT
from .. import data, first_stage, world
from ..device import DEVICE
from ..train_base import features_of

WIDTH = CONTEXT
HIDDEN = 96  # of the tokenizers' MLPs
KEEP = 0.9  # share of a scene's things that are grounded: the rest come from the caption alone
SILENT = 0.4  # share of examples without a caption, in which the tokens alone say what is there


class Examples(NamedTuple):
    inputs: tuple[Tensor, ...]  # of the tokenizer, [B, ...]
    regions: Tensor  # of each grounding token, corners xyxy [B, G, 4]; zeros: none
    captions: Tensor  # token ids [B, 77]
    extra: Callable[[FirstConv], Tensor] | None = None  # see learning.training.Batch


class Adapter(ABC):
    """One GLIGEN over the frozen base. name: of its file and stage. kind: its name in `KINDS`. seed: and
    steps: of its training. start: the adapter whose gated layers it begins with. batch: on a GPU.
    tokenizer, scenes, latents [N, 4, 16, 16], and usable, indices of those, are made by `prepare`."""

    name: str
    kind: str
    seed: int
    steps: int = 8000
    start: str | None = None
    batch = 128

    def __init__(self):
        self.tokenizer = self.new_tokenizer()
        self.null = data.Tokens()([""]).to(DEVICE)

    @abstractmethod
    def new_tokenizer(self) -> nn.Module: ...

    def prepare(self, text: nn.Module) -> None:
        """Load what examples are made of. text: the base's text encoder."""
        self.scenes = data.scenes("mixed")
        self.latents = first_stage.latents(self.scenes)
        self.usable = self.scenes.without_held_out()

    def begin(self, other: Gligen) -> None:
        """Have the tokenizer begin like that of `start`, where that helps."""
        return

    @abstractmethod
    def examples(self, at: Tensor) -> Examples:
        """Of the scenes with these indices [B], drawn on the device."""

    @property
    def gligen_kind(self) -> Kind:
        return next(kind for kind in KINDS if kind.name == self.kind)

    def first_conv(self, base: nn.Conv2d) -> FirstConv | None:
        extra = self.gligen_kind.extra
        return None if extra is None else widened(base, extra(operations=nn))

    def captions(self, at: Tensor, plain: Tensor | None = None) -> Tensor:
        """Of the scenes, each one of those that it has or none; the last where `plain`, [B]."""
        picked = torch.randint(data.CAPTIONS, at.shape, device=DEVICE)
        if plain is not None:
            picked = torch.where(plain, data.CAPTIONS - 1, picked)
        silent = torch.rand(len(at), 1, device=DEVICE) < SILENT
        return torch.where(silent, self.null, self.scenes.caption[at, picked])


class Phrases:
    """Features of the things' phrases, in several wordings, and with some noise, so that things which are
    never seen here read like those that are."""

    WORDINGS = (
        "{}",
        "{a}",
        "{a}",
        "{a} here",
        "the {}",
        "one {}",
        "{a} on the left",
        "{a} in the middle",
    )
    JITTER = 0.3  # of the features' spread

    def __init__(self, text: nn.Module):
        wordings = [
            [w.format(name, a=world.phrase_of(name)) for name in world.NAMES] for w in self.WORDINGS
        ]
        self.features = torch.stack(
            [features_of(text, names) for names in wordings]
        )  # [W, names, F]
        self.spread = self.features.flatten(0, 1).std(0) * self.JITTER

    def of(self, name: Tensor) -> Tensor:
        """Indices of names [B, K] → features [B, K, F]."""
        wording = torch.randint(len(self.features), name.shape, device=DEVICE)
        features = self.features[wording, name.clamp(min=0)]
        return features + self.spread * torch.randn_like(features) * torch.rand(
            *name.shape, 1, device=DEVICE
        )


def in_slots(values: Tensor, slots: int) -> Tensor:
    """[B, K, ...] → [B, slots, ...], zeros in the rest."""
    empty = torch.zeros(len(values), slots - values.shape[1], *values.shape[2:], device=DEVICE)
    return torch.cat([values.float(), empty], dim=1)


def kept_of(name: Tensor, share: float = KEEP) -> Tensor:
    """1 for the things that are there and are grounded, [B, K]."""
    return ((name >= 0) & (torch.rand(name.shape, device=DEVICE) < share)).float()
