"""What a user grounds: an entity with a place. Places are fractions of the image, 0..1.

A kind of grounding has an entity of its own, which answers what any of them is asked: what of it lies in a
region of the picture, how it is called and drawn, and whether it makes grounding tokens, extra channels of
the first convolution, or both.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import GligenError
from .fitting import Size, cut_out, middle, on_latent
from .places import WHOLE, Box, Sketch

LEAST_SHARE = 0.2
"""How much of a box has to lie in a region for it to belong there: where a model is shown a slice of a thing,
it paints a whole small one."""
BONES = (
    *((0, 1), (0, 2), (1, 3), (2, 4)),  # head
    *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),  # shoulders and arms
    *((5, 11), (6, 12), (11, 12)),
    *((11, 13), (13, 15), (12, 14), (14, 16)),  # legs
)
"""Pairs of COCO's 17 points."""


@dataclass(frozen=True, eq=False)
class Entity:
    """What is grounded. of_area: its place is relative to the area that its conditioning is for, if that is
    for one."""

    makes_tokens: ClassVar[bool] = True
    makes_channels: ClassVar[bool] = False
    of_area: ClassVar[bool] = True
    noun: ClassVar[str] = "thing"

    def __init_subclass__(cls) -> None:
        torch.serialization.add_safe_globals([cls])  # a saved conditioning holds it

    def within(self, region: Box) -> "Entity | None":
        """What of it lies in a region of the picture, in fractions of that; None where it does not belong
        there."""
        raise NotImplementedError

    def placed_in(self, area: Box) -> "Entity":
        """The same, in fractions of the picture that has the area which it is relative to."""
        return self

    def fitted(self, size: Size, side: int | None) -> "Entity":
        """The same for a latent of this size, and for a tokenizer that takes maps of side × side."""
        return self

    def towards(self, other: "Entity", share: float) -> "Entity":
        """The same on its way to the place of another of its kind, at 1 there. Raises GligenError for a kind
        that does not move."""
        raise GligenError(
            f"a {self.noun} of this kind does not move. Give one for each picture instead."
        )

    def label(self) -> str:
        """What it is called; "" where it has no name of its own, and is one of many of its `noun`."""
        return ""

    def sketch(self) -> Sketch:
        return Sketch()


@dataclass(frozen=True)
class PhraseBox:
    """A phrase and the box in which it shall appear."""

    phrase: str
    box: Box


@dataclass(frozen=True, eq=False)
class BoxEntity(Entity):
    """A thing in a box. A style has a box that is none, and belongs to every region."""

    noun: ClassVar[str] = "box"

    box: Box
    phrase: str = ""
    text: Tensor | None = None  # [F], feature of the phrase
    image: Tensor | None = None  # [F], feature of a picture

    @property
    def is_style(self) -> bool:
        return self.box.problem() is not None

    def within(self, region: Box) -> "BoxEntity | None":
        if region == WHOLE or self.is_style:
            return self
        b = self.box
        x0, y0 = max(b.x0, region.x0), max(b.y0, region.y0)
        x1, y1 = min(b.x1, region.x1), min(b.y1, region.y1)
        if x0 >= x1 or y0 >= y1 or (x1 - x0) * (y1 - y0) < LEAST_SHARE * b.width * b.height:
            return None
        return replace(self, box=Box(x0, y0, x1, y1).relative_to(region))

    def placed_in(self, area: Box) -> "BoxEntity":
        return self if self.is_style else replace(self, box=self.box.placed_in(area))

    def towards(self, other: "BoxEntity", share: float) -> "BoxEntity":
        return self if self.is_style else replace(self, box=self.box.towards(other.box, share))

    def label(self) -> str:
        return self.phrase

    def sketch(self) -> Sketch:
        return Sketch() if self.is_style else Sketch(box=self.box)


@dataclass(frozen=True, eq=False)
class Pose(Entity):
    """A person, by keypoints."""

    noun: ClassVar[str] = "person"

    points: Tensor  # [17, 2], xy in COCO's order, fractions of the image; (0, 0) where missing

    def within(self, region: Box) -> "Pose | None":
        if region == WHOLE:
            return self
        corner, size = torch.tensor([[region.x0, region.y0], [region.width, region.height]])
        points = (self.points - corner) / size
        inside = self.is_there() & (points >= 0).all(1) & (points <= 1).all(1)
        return Pose(points * inside[:, None]) if inside.any() else None

    def placed_in(self, area: Box) -> "Pose":
        corner, size = torch.tensor([[area.x0, area.y0], [area.width, area.height]])
        return Pose((corner + self.points * size) * self.is_there()[:, None])

    def towards(self, other: "Pose", share: float) -> "Pose":
        """Only what is there at both ends moves; the rest is missing."""
        both = self.is_there() & other.is_there()
        return Pose(torch.lerp(self.points, other.points, share) * both[:, None])

    def is_there(self) -> Tensor:
        """Of each point, [17]."""
        return (self.points != 0).any(1)

    def sketch(self) -> Sketch:
        there = dict(enumerate(map(tuple, self.points.tolist())))
        there = {i: there[i] for i in self.is_there().nonzero().flatten().tolist()}
        bones = ((there[a], there[b]) for a, b in BONES if a in there and b in there)
        return Sketch(lines=tuple(bones), dots=tuple(there.values()))


@dataclass(frozen=True, eq=False)
class SpatialMap(Entity):
    """Edges, depth, normals or classes of the whole image."""

    makes_channels: ClassVar[bool] = True
    noun: ClassVar[str] = "map"

    picture: Tensor  # [C, H, W], -1..1, or one-hot classes
    has_classes: bool = False

    def within(self, region: Box) -> "SpatialMap | None":
        if region == WHOLE:
            return self
        if region.is_beside():
            return None
        return replace(self, picture=cut_out(self.picture, region))

    def fitted(self, size: Size, side: int | None) -> "SpatialMap":
        """The middle of the map in the aspect of the latent, squeezed into side × side. The authors do so
        with square pictures: `crop_and_resize` in gligen_inference.py of gligen/GLIGEN."""
        if side is None:
            return self
        picture = middle(self.picture, size)[None]
        if picture.shape[-2:] == (side, side):
            return replace(self, picture=picture[0])
        mode = "nearest-exact" if self.has_classes else "bicubic"
        resized = interpolate(picture, (side, side), mode=mode, antialias=not self.has_classes)
        return replace(self, picture=resized[0].clamp(-1, 1))


@dataclass(frozen=True, eq=False)
class Inpainting(Entity):
    """The part of an image that stays. It is of the whole image, whatever area a conditioning is for."""

    makes_tokens: ClassVar[bool] = False
    makes_channels: ClassVar[bool] = True
    of_area: ClassVar[bool] = False

    known: Tensor  # [1, 4, h, w], the latent as the UNet sees it
    mask: Tensor  # [1, 1, H, W], 1 where known, 0 where to be painted

    def within(self, region: Box) -> "Inpainting | None":
        if region == WHOLE:
            return self
        if region.is_beside():
            return None
        return Inpainting(cut_out(self.known, region), cut_out(self.mask, region))

    def fitted(self, size: Size, side: int | None) -> "Inpainting":
        known = self.known
        if known.shape[-2:] != size:
            known = interpolate(known, size, mode="bilinear")
        return Inpainting(known, 1 - on_latent(1 - self.mask, size).ceil())
