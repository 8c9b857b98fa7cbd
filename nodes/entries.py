"""The boxes inside a CONDITIONING, as the host keeps them.

An entry is the host's tuple (phrase feature [1, F], height, width, y, x), in latent pixels. This pack
writes the same tuple with fractions of the image in place of pixels, which hold at any size.
"""

import torch
from torch import Tensor

from ..gligen_ops.entity import Box, PhraseBox
from ..gligen_ops.errors import GligenError


class Fraction(float):
    """A length as a share of the image: divided by the image's length it is still that share."""

    def __truediv__(self, length) -> float:
        return float(self)

    def __add__(self, other) -> "Fraction":
        return Fraction(float(self) + float(other))


class Entry(tuple):
    """The host's tuple for one box, in fractions, with its phrase."""

    phrase: str

    def __new__(cls, feature: Tensor, entity: PhraseBox) -> "Entry":
        box = entity.box
        size_and_corner = (box.y1 - box.y0, box.x1 - box.x0, box.y0, box.x0)
        entry = super().__new__(cls, (feature, *map(Fraction, size_and_corner)))
        entry.phrase = entity.phrase
        return entry


def box_of(entry: tuple, height: int, width: int) -> Box:
    """The box of an entry on a latent of height × width."""
    _, h, w, y, x = entry
    return Box(x / width, y / height, (x + w) / width, (y + h) / height)


def check_count(count: int, slots: int) -> None:
    if count > slots:
        raise GligenError(
            f"This GLIGEN model grounds at most {slots} boxes, and the conditioning carries {count}. "
            f"Remove {count - slots}."
        )


def tokenizer_inputs(
    entries: list[tuple], height: int, width: int, slots: int, text_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What the tokenizer takes, for a batch of one: boxes [1, slots, 4], mask [1, slots] and phrase
    features [1, slots, F], on the CPU in float32."""
    check_count(len(entries), slots)
    boxes, mask = torch.zeros(1, slots, 4), torch.zeros(1, slots)
    features = torch.zeros(1, slots, text_width)
    for slot, entry in enumerate(entries):
        box = box_of(entry, height, width)
        boxes[0, slot] = torch.tensor((box.x0, box.y0, box.x1, box.y1))
        mask[0, slot] = 1
        features[0, slot] = entry[0].reshape(-1).float()
    return boxes, mask, features
