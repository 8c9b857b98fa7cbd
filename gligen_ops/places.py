"""Places in a picture, in fractions of it, 0..1: x to the right, y down."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

Point = tuple[float, float]
OVERHANG = 0.05
"""How far a box may stick out of the image, in fractions of it: so much is cut off, more is a mistake."""
ROUNDING = 1e-4
DIGITS = 5  # of a place relative to a region, beyond which lies rounding


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

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

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
        return self.is_beside() or max(-low, high - 1) > OVERHANG + ROUNDING

    def is_beside(self) -> bool:
        """Whether nothing of it is in the image."""
        return min(self.x1, self.y1) <= 0 or max(self.x0, self.y0) >= 1

    def cut(self) -> "Box":
        """What of it is in the image."""
        return Box(max(self.x0, 0.0), max(self.y0, 0.0), min(self.x1, 1.0), min(self.y1, 1.0))

    def relative_to(self, region: "Box") -> "Box":
        """This box in fractions of a region."""
        if region == WHOLE:
            return self
        x0, x1 = ((x - region.x0) / region.width for x in (self.x0, self.x1))
        y0, y1 = ((y - region.y0) / region.height for y in (self.y0, self.y1))
        return Box(*(round(v, DIGITS) for v in (x0, y0, x1, y1)))

    def towards(self, other: "Box", share: float) -> "Box":
        """A box on the way to another, at 1 there."""
        ends = zip(
            (self.x0, self.y0, self.x1, self.y1),
            (other.x0, other.y0, other.x1, other.y1),
            strict=True,
        )
        return Box(*(a + share * (b - a) for a, b in ends))

    def covers(self, region: "Box") -> bool:
        """Whether all of a region is in this box, but for rounding."""
        out = (self.x0 - region.x0, self.y0 - region.y0, region.x1 - self.x1, region.y1 - self.y1)
        return max(out) <= ROUNDING

    def placed_in(self, area: "Box") -> "Box":
        """This box, which is in fractions of an area, in fractions of the picture that has the area."""
        if area == WHOLE:
            return self
        x0, x1 = (area.x0 + x * area.width for x in (self.x0, self.x1))
        y0, y1 = (area.y0 + y * area.height for y in (self.y0, self.y1))
        return Box(x0, y0, x1, y1)

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a picture of height × width that the box covers, at least one of each."""
        x0, y0, x1, y1 = self.corners(height, width)
        return slice(max(y0, 0), y1), slice(max(x0, 0), x1)

    def corners(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Its x0, y0, x1, y1 in pixels of a picture of height × width, at least one of which is in it."""
        y0, x0 = min(round(self.y0 * height), height - 1), min(round(self.x0 * width), width - 1)
        y1, x1 = max(round(self.y1 * height), y0 + 1, 1), max(round(self.x1 * width), x0 + 1, 1)
        return x0, y0, x1, y1


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


class Sketch(NamedTuple):
    """How an entity is drawn, in fractions of the picture."""

    box: Box | None = None
    lines: tuple[tuple[Point, Point], ...] = ()
    dots: tuple[Point, ...] = ()


torch.serialization.add_safe_globals([Box])  # a saved conditioning holds it
