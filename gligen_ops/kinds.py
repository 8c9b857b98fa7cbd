"""The kinds of GLIGEN: what each is grounded by, and how a file's tensors tell which it is.

Original: the ten checkpoints in the README of gligen/GLIGEN; their configurations in configs/.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import nn

from .box_tokens import BoxTokenizer
from .first_conv import LATENT, Downsampler, Edges, FirstConv, KnownRegion
from .keypoint_tokens import KeypointTokenizer
from .map_tokens import CLASSES, MapTokenizer, SemanticMapTokenizer
from .names import DOWNSAMPLER, FIRST_CONV, TOKENIZER
from .shapes import Shapes, agreed, vote
from .text_image_tokens import TextImageTokenizer

OFFICIAL = "gligen/gligen-"


@dataclass(frozen=True)
class Kind:
    """name: in words. official: the authors' checkpoint on Hugging Face. tokenizer: the class of
    `position_net`. extra: makes what the first convolution takes beside the latent, from `operations`;
    None where it is Stable Diffusion's own."""

    name: str
    official: str
    tokenizer: type[nn.Module]
    extra: Callable[..., nn.Module] | None = None

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


def maps(inputs: int, hidden: int = 4, mode: str = "bicubic") -> Callable[..., Downsampler]:
    return partial(Downsampler, inputs, hidden, mode)


KINDS = (
    Kind("text box", OFFICIAL + "generation-text-box", BoxTokenizer),
    Kind("text and image box", OFFICIAL + "generation-text-image-box", TextImageTokenizer),
    Kind("keypoints", OFFICIAL + "generation-keypoint", KeypointTokenizer),
    Kind("hed map", OFFICIAL + "generation-hed", MapTokenizer, Edges),
    Kind("canny map", OFFICIAL + "generation-canny", MapTokenizer, maps(1)),
    Kind("depth map", OFFICIAL + "generation-depth", MapTokenizer, maps(1)),
    Kind("normal map", OFFICIAL + "generation-normal", MapTokenizer, maps(3)),
    Kind(
        "semantic map",
        OFFICIAL + "generation-sem",
        SemanticMapTokenizer,
        maps(CLASSES, 16, "nearest"),
    ),
    Kind("text box inpainting", OFFICIAL + "inpainting-text-box", BoxTokenizer, KnownRegion),
    Kind(
        "text and image box inpainting",
        OFFICIAL + "inpainting-text-image-box",
        TextImageTokenizer,
        KnownRegion,
    ),
)


def kind_of(shapes: Shapes, told: Sequence[str] = ()) -> Kind:
    """The kind of GLIGEN whose tensors are most like these, by the authors' names.

    told: what else is known, the surest first. It decides between kinds of the same tensors, canny and
    depth: the first text with the name of one does, and where there is none it is canny.
    """
    found = {name.split(".")[1] for name in shapes if name.startswith(TOKENIZER)}
    has_conv = any(name.startswith(FIRST_CONV) for name in shapes)
    if has_conv:
        found.add(FIRST_CONV)
    found |= {f"{n} channels" for n in vote(shapes, f"{FIRST_CONV}weight", 4, 1)}
    found |= {f"a map of {n}" for n in vote(shapes, f"{DOWNSAMPLER}layers.0.weight", 4, 1)}

    def distance(kind: Kind) -> tuple[int, bool]:
        return len(found ^ parts_of(kind)), (kind.extra is not None) != has_conv

    nearest = min(map(distance, KINDS))
    alike = [kind for kind in KINDS if distance(kind) == nearest]
    by_word = (kind for text in told for kind in alike if kind.word in text.lower())
    return next(by_word, alike[0])


@cache
def parts_of(kind: Kind) -> frozenset[str]:
    """What `kind_of` finds in a complete file of this kind."""
    if kind.extra is None:
        return kind.tokenizer.parts
    with torch.device("meta"):
        extra = kind.extra(operations=nn)
    parts = {FIRST_CONV, f"{LATENT + extra.channels} channels"}
    if isinstance(extra, Downsampler):
        parts.add(f"a map of {extra.layers[0].in_channels}")
    return kind.tokenizer.parts | parts
