"""The kinds of GLIGEN: what each is grounded by, and how a file's tensors tell which it is. A tokenizer
declares its kinds; see tokenizers/tokenizer.py.

Original: the ten checkpoints in the README of gligen/GLIGEN; their configurations in configs/.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from .layers.first_conv import LATENT, Downsampler, FirstConv
from .shapes import Shapes, agreed, vote

OFFICIAL = "gligen/gligen-"
FIRST_CONV = "input_blocks.0.0."
TOKENIZER = "position_net."
DOWNSAMPLER = "downsample_net."
KINDS: "list[Kind]" = []
"""All that there are, as their tokenizers are imported."""


@dataclass(frozen=True)
class Kind:
    """name: in words. official: the authors' checkpoint on Hugging Face. extra: makes what the first
    convolution takes beside the latent, from `operations`; None where it is Stable Diffusion's own.
    tokenizer: the class of `position_net`, which declares the kind."""

    name: str
    official: str
    extra: Callable[..., nn.Module] | None = None
    tokenizer: type[nn.Module] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def word(self) -> str:
        """What sets its name, and those of the authors' modules, apart: "depth"."""
        return self.name.split()[0]

    def build_tokenizer(self, shapes: Shapes, token_width: int, operations=nn) -> nn.Module:
        """The tokenizer with tensors of these shapes, by the authors' names."""
        inside = {
            name.removeprefix(TOKENIZER): shape
            for name, shape in shapes.items()
            if name.startswith(TOKENIZER)
        }
        return self.tokenizer.of(inside, token_width, operations)

    def build_first_conv(self, shapes: Shapes, width: int, operations=nn) -> FirstConv | None:
        """The first convolution with tensors of these shapes. width: C where they do not tell."""
        if self.extra is None:
            return None
        votes = vote(shapes, f"{FIRST_CONV}weight", 4, 0) + vote(shapes, f"{FIRST_CONV}bias", 1, 0)
        return FirstConv(agreed(votes, width), self.extra(operations=operations), operations)


def kinds_of(*tokenizers: type[nn.Module]) -> list[Kind]:
    """The kinds that have one of these tokenizers."""
    return [kind for kind in KINDS if issubclass(kind.tokenizer, tokenizers)]


def kind_of(shapes: Shapes, hints: Sequence[str] = ()) -> Kind:
    """The kind of GLIGEN whose tensors are most like these, by the authors' names.

    hints: what else is known, the surest first. They decide between kinds of the same tensors, canny and
    depth: the first text with the name of one does, and where there is none it is canny.
    """
    found = {name.split(".")[1] for name in shapes if name.startswith(TOKENIZER)}
    has_conv = any(name.startswith(FIRST_CONV) for name in shapes)
    if has_conv:
        found.add(FIRST_CONV)
    found |= {f"{n} channels" for n in vote(shapes, f"{FIRST_CONV}weight", 4, 1)}
    found |= {f"a map of {n}" for n in vote(shapes, f"{DOWNSAMPLER}layers.0.weight", 4, 1)}

    def distance(kind: Kind) -> tuple[int, bool]:
        return len(found ^ features_of(kind)), (kind.extra is not None) != has_conv

    nearest = min(map(distance, KINDS))
    alike = [kind for kind in KINDS if distance(kind) == nearest]
    by_word = (kind for text in hints for kind in alike if kind.word in text.lower())
    return next(by_word, alike[0])


@cache
def features_of(kind: Kind) -> frozenset[str]:
    """What `kind_of` finds in a complete file of this kind."""
    if kind.extra is None:
        return kind.tokenizer.tensor_names
    with torch.device("meta"):
        extra = kind.extra(operations=nn)
    names = {FIRST_CONV, f"{LATENT + extra.channels} channels"}
    if isinstance(extra, Downsampler):
        names.add(f"a map of {extra.layers[0].in_channels}")
    return kind.tokenizer.tensor_names | names
