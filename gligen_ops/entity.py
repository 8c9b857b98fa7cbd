"""What a user grounds: an entity with a place. Places are fractions of the image, 0..1."""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from .errors import GligenError

OVERHANG = 0.05
"""How far a box may stick out of the image, in fractions of it: so much is cut off, more is a mistake."""
ROUNDING = 1e-4


@dataclass(frozen=True)
class Box:
    """A rectangle by its corners, fractions of the image: x to the right, y down."""

    x0: float
    y0: float
    x1: float
    y1: float

    @staticmethod
    def from_size(x: float, y: float, width: float, height: float) -> "Box":
        return Box(x, y, x + width, y + height)

    def problem(self) -> str | None:
        """Why this box cannot be used, in words for the user; None where it can."""
        values = (self.x0, self.y0, self.x1, self.y1)
        if not all(math.isfinite(v) for v in values):
            return "it has a value that is not a finite number"
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            return "its width and height must be above 0"
        if self.is_outside():
            return (
                f"it reaches from {self.x0:g} to {self.x1:g} in x and from {self.y0:g} to {self.y1:g} in "
                f"y, outside of the image, which is 0 to 1 in both (up to {OVERHANG:g} over its edge is "
                "cut off). Lower x or width, y or height"
            )
        return None

    def is_outside(self) -> bool:
        """Whether it sticks out of the image too far to be cut, or there is nothing of it in there."""
        low, high = min(self.x0, self.y0), max(self.x1, self.y1)
        absent = min(self.x1, self.y1) <= 0 or max(self.x0, self.y0) >= 1
        return absent or max(-low, high - 1) > OVERHANG + ROUNDING

    def cut(self) -> "Box":
        """What of it is in the image."""
        return Box(max(self.x0, 0.0), max(self.y0, 0.0), min(self.x1, 1.0), min(self.y1, 1.0))


@dataclass(frozen=True)
class PhraseBox:
    """A phrase and the box in which it shall appear."""

    phrase: str
    box: Box


@dataclass(frozen=True, eq=False)
class Entity:
    """What a tokenizer of boxes takes."""

    box: Box
    phrase: str = ""
    text: Tensor | None = None  # [F], feature of the phrase
    image: Tensor | None = None  # [F], feature of a picture


@dataclass(frozen=True, eq=False)
class Pose:
    """A person, by keypoints."""

    points: Tensor  # [17, 2], xy in COCO's order, fractions of the image; (0, 0) where missing


@dataclass(frozen=True, eq=False)
class SpatialMap:
    """Edges, depth, normals or classes of the whole image."""

    picture: Tensor  # [C, H, W], -1..1, or one-hot classes


@dataclass(frozen=True, eq=False)
class Inpainting:
    """The part of an image that stays."""

    known: Tensor  # [1, 4, h, w], the latent as the UNet sees it
    mask: Tensor  # [1, 1, h, w], 1 where known, 0 where to be painted


def check_boxes(boxes: list[PhraseBox]) -> list[PhraseBox]:
    """The same boxes, cut to the image, or one GligenError that names every bad one."""
    problems = []
    for number, entity in enumerate(boxes, start=1):
        reason = "its text is empty" if not entity.phrase.strip() else entity.box.problem()
        if reason:
            name = f" ({entity.phrase.strip()})" if entity.phrase.strip() else ""
            problems.append(f"Box {number}{name}: {reason}.")
    if problems:
        raise GligenError("\n".join(problems))
    return [replace(entity, box=entity.box.cut()) for entity in boxes]
