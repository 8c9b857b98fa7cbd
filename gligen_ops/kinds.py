"""The kinds of GLIGEN: what each is grounded by, and the signature by which its files are known. A
tokenizer declares its kinds; see tokenizers/tokenizer.py.

Original: the ten checkpoints in the README of gligen/GLIGEN; their configurations in configs/.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from .errors import GligenError
from .layers.first_conv import LATENT, FirstConv
from .shapes import Axes, Shapes, fits

OFFICIAL = "gligen/gligen-"
FIRST_CONV = "input_blocks.0.0."
TOKENIZER = "position_net."
DOWNSAMPLER = "downsample_net."
KINDS: "list[Kind]" = []
"""All that there are, as their tokenizers are imported."""


@dataclass(frozen=True)
class Kind:
    """A kind of GLIGEN.

    name: in words. official: the authors' checkpoint on Hugging Face. signature: the tensors by which a
    file is known to be of this kind, by the authors' names, each with its axes where those matter. extra:
    makes what the first convolution takes beside the latent, from `operations`; None where it is Stable
    Diffusion's own. tokenizer: the class of `position_net`, which declares the kind."""

    name: str
    official: str
    signature: Mapping[str, Axes | None]
    extra: Callable[..., nn.Module] | None = None
    tokenizer: type[nn.Module] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def word(self) -> str:
        """What sets its name, and those of the authors' modules, apart: "depth"."""
        return self.name.split()[0]

    def lacks(self, shapes: Shapes) -> list[str]:
        """What of its signature is not among tensors of these shapes, in words."""
        return [
            tensor if axes is None else f"{tensor} [{', '.join(map(str, axes))}]"
            for tensor, axes in self.signature.items()
            if tensor not in shapes or (axes is not None and not fits(shapes[tensor], axes))
        ]

    def build_first_conv(self, width: int, operations=nn) -> FirstConv | None:
        """The first convolution, C = `width` features wide, where it is not Stable Diffusion's own."""
        if self.extra is None:
            return None
        return FirstConv(width, self.extra(operations=operations), operations)


def first_conv_with(channels: int) -> dict[str, Axes]:
    """The part of a signature that tells of so many extra channels of the first convolution."""
    return {f"{FIRST_CONV}weight": ("width", LATENT + channels, 3, 3)}


def downsampler_of(inputs: int) -> dict[str, Axes]:
    """The part of a signature that tells of maps with so many channels."""
    return {f"{DOWNSAMPLER}layers.0.weight": ("hidden", inputs, 4, 4)}


def kinds_of(*tokenizers: type[nn.Module]) -> list[Kind]:
    """The kinds that have one of these tokenizers."""
    return [kind for kind in KINDS if issubclass(kind.tokenizer, tokenizers)]


def kind_of(shapes: Shapes, hints: Sequence[str] = (), file: str = "the file") -> Kind:
    """The kind whose signature is among tensors of these shapes, by the authors' names. Where several are,
    the longest counts: that of inpainting is the one of boxes and more.

    hints: what else is known, the surest first. If the first is a kind's name, it is believed. The others
    decide between kinds of the same signature, canny and depth: the first text with the word of one does,
    and where there is none it is canny.

    Raises GligenError where the tensors have no kind's signature.
    """
    named = [kind for kind in KINDS if hints and kind.name == hints[0]]
    if named:
        return named[0]
    if f"{FIRST_CONV}bias" in shapes and f"{FIRST_CONV}weight" not in shapes:
        raise GligenError(
            f"{file} does not hold a complete GLIGEN: {FIRST_CONV}weight is missing. Download it again, or "
            "choose another file."
        )
    lacking = {kind.name: kind.lacks(shapes) for kind in KINDS}
    found = [kind for kind in KINDS if not lacking[kind.name]]
    if not found:
        near = [f"{lacks[0]} ({name})" for name, lacks in lacking.items() if len(lacks) == 1]
        raise GligenError(
            f"{file} holds gated layers, but it is of no kind of GLIGEN that this pack knows. It lacks one "
            f"of these tensors: {'; '.join(near)}. Download it again, or choose another file."
        )
    longest = max(len(kind.signature) for kind in found)
    alike = [kind for kind in found if len(kind.signature) == longest]
    by_word = (kind for text in hints for kind in alike if kind.word in text.lower())
    return next(by_word, alike[0])
