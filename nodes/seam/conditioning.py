"""What a CONDITIONING grounds: put in, and read again.

Nodes of this pack put entries into it by a carrier (carrier.py), those of the host and of other packs by

    cond["gligen"] = (form, GLIGEN, params)

A param is a tuple (phrase feature [1, F], height, width, y, x) in latent pixels of the area.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from comfy.samplers import add_area_dims, resolve_areas_and_cond_masks_multidim
from torch import Tensor

from ...gligen_ops.entities import Entity
from ...gligen_ops.errors import GligenError
from ...gligen_ops.fitting import Size
from ...gligen_ops.places import WHOLE, Box
from .carrier import (
    AREA,
    CONTROL,
    FITTED_AREA,
    HOST_GLIGEN,
    MASK,
    Carrier,
    carried_by,
    carriers_of,
    changed,
    to_follow,
)  # fmt: skip
from .gligens import LoadedGligen, adopted, host_box, load

Conditioning = list[tuple[Tensor, dict]]
"""The host's CONDITIONING."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One thing that a conditioning grounds. frames: the entity in each picture of a batch, None where a
    picture has none. strengths: in each picture, 0 and up. One frame stands for all, and the last for any
    more pictures."""

    gligen: LoadedGligen
    frames: tuple[Entity | None, ...]
    strengths: tuple[float, ...] = (1.0,)

    def at(self, picture: int) -> Entity | None:
        """None where it is not there, or off."""
        return at(self.frames, picture) if self.strength_at(picture) > 0 else None

    def strength_at(self, picture: int) -> float:
        return at(self.strengths, picture)

    @property
    def length(self) -> int:
        """For how many pictures it says something of its own."""
        return max(len(self.frames), len(self.strengths))

    @property
    def kind(self) -> type[Entity]:
        return type(next(entity for entity in self.frames if entity is not None))


torch.serialization.add_safe_globals([Entry, load])


def at(values: tuple, picture: int):
    """Of values for the pictures of a batch that of one: the last stands for any more."""
    return values[min(picture, len(values) - 1)]


def ground(
    conditioning: Conditioning,
    gligen: LoadedGligen,
    entities: list[tuple[Entity | None, ...]],
    strength: float = 1.0,
) -> Conditioning:
    """The conditioning with more entities of a GLIGEN, each given frame by frame as in `Entry`. Raises
    GligenError where they are more than the model has slots for."""
    if not 0 <= strength < math.inf:
        raise GligenError(
            f"strength: it is {strength}; expected a number from 0 up. 1 is as trained."
        )
    new = [Entry(gligen, frames, (strength,)) for frames in entities]
    return [[text, _with_entries(cond, gligen, new)] for text, cond in conditioning]


def _with_entries(cond: dict, gligen: LoadedGligen, new: list[Entry]) -> dict:
    control = cond.get(CONTROL)
    if isinstance(control, Carrier):
        carrier = control.with_(entries=(*control.entries, *new))
    else:
        carrier = Carrier(new, control)
    cond = {**cond, CONTROL: carrier}
    gligen.check_count(sum(e.gligen is gligen and e.kind.makes_tokens for e in carried_by(cond)))
    return cond


def by_entity(frames: list[list]) -> list[tuple]:
    """Entities of each frame → frames of each entity, None in a frame that has fewer."""
    count = max(map(len, frames), default=0)
    return [tuple(f[i] if i < len(f) else None for f in frames) for i in range(count)]


def is_grounded(cond: dict) -> bool:
    return cond.get(HOST_GLIGEN) is not None or bool(carriers_of(cond))


def entries_of(cond: dict, size: Size, region: Box = WHOLE) -> list[Entry]:
    """The entries of a cond for a latent of this size, which shows this region of the whole picture."""
    return carried_by(cond) + _entries_of_others(cond, size, region)


def _entries_of_others(cond: dict, size: Size, region: Box) -> list[Entry]:
    if cond.get(HOST_GLIGEN) is None:
        return []
    form, patcher, params = cond[HOST_GLIGEN]
    if form not in ("position", "position_batched"):  # the latter: KJNodes, params of each frame
        raise GligenError(
            f'conditioning: it carries GLIGEN boxes of a form ("{form}") that this pack does not know. '
            "Make them with the GLIGEN Text Box or GLIGEN Text Boxes node."
        )
    area = area_of(cond, size)
    height, width = (area.y1 - area.y0) * size[0], (area.x1 - area.x0) * size[1]
    frames = params if form == "position_batched" else [params]
    boxes = [[host_box(p, height, width).placed_in(region) for p in frame] for frame in frames]
    gligen = adopted(patcher)
    return [Entry(gligen, frames) for frames in by_entity(boxes)]


def area_of(cond: dict, size: Size) -> Box:
    """The part of the picture that a cond is for, by the host's own reading of its area and mask."""
    if "area" not in cond and not cond.get("set_area_to_bounds"):
        return WHOLE
    conds = [dict(cond)]
    resolve_areas_and_cond_masks_multidim(conds, size, torch.device("cpu"))
    area = conds[0].get("area")
    if area is None:
        return WHOLE
    height, width, y, x = (int(v) for v in add_area_dims(list(area), 2)[:4])
    h, w = size
    return Box(x / w, y / h, min(x + width, w) / w, min(y + height, h) / h)


def entities_in(conditioning: Conditioning, size: Size, picture: int) -> Iterator[Entity]:
    """The entities that a CONDITIONING grounds in a picture whose latent has this size, placed in it."""
    for _, cond in conditioning:
        area = area_of(cond, size)
        fitted = fitted_to(cond)
        region = fitted[picture % len(fitted)]
        for entry in entries_of(cond, size, region):
            entity = entry.at(picture)
            entity = entity and entity.within(region)
            if entity is not None:
                yield entity.placed_in(area) if entity.of_area else entity


def frame_count(conditioning: Conditioning, size: Size) -> int:
    counts = [e.length for _, cond in conditioning for e in entries_of(cond, size)]
    return max([*counts, *(len(fitted_to(cond)) for _, cond in conditioning)], default=1)


def fitted_to(cond: dict) -> tuple[Box, ...]:
    """The region of the picture, of each of a batch, that a cond is fitted to."""
    return next((carrier.fitted for carrier in carriers_of(cond)), (WHOLE,))


def fitted(conditioning: Conditioning, regions: list[Box]) -> Conditioning:
    """The conditioning for a run that makes a region, of each picture of a batch, by itself: a region of what
    it was fitted to before. Raises GligenError for one that is for an area."""

    def fit(carrier: Carrier) -> dict:
        count = max(len(carrier.fitted), len(regions))
        pairs = (
            (regions[i % len(regions)], carrier.fitted[i % len(carrier.fitted)])
            for i in range(count)
        )
        return {"fitted": tuple(region.placed_in(whole) for region, whole in pairs)}

    return _with_carriers(conditioning, fit)


def following(conditioning: Conditioning) -> Conditioning:
    """The conditioning for those who cut a picture and of its conds nothing but their masks."""
    return [
        [text, {**cond, MASK: to_follow(cond.get(MASK))} if carriers_of(cond) else cond]
        for text, cond in _with_carriers(conditioning, lambda carrier: {"follows": True})
    ]


def _with_carriers(conditioning: Conditioning, change: Callable[[Carrier], dict]) -> Conditioning:
    if any(AREA in cond for _, cond in conditioning):
        raise GligenError(FITTED_AREA)
    return [
        [text, {**cond, CONTROL: changed(cond[CONTROL], change)} if carriers_of(cond) else cond]
        for text, cond in conditioning
    ]
