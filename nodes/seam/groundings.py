"""What one cond grounds by one GLIGEN."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...gligen_ops.entities import Entity, Inpainting
from ...gligen_ops.errors import GligenError
from ...gligen_ops.fitting import Size
from ...gligen_ops.places import WHOLE, Box
from .conditioning import Entry, at
from .gligens import LoadedGligen
from .tags import Row


@dataclass(frozen=True, eq=False)
class Grounding:
    """What one cond grounds by one GLIGEN.

    entries: those that make tokens; none: the null grounding. channels: the entry that goes into the first
    convolution. strengths: multiply β; of each picture of a batch, that of the strongest entry there. area:
    what the places of entities are relative to.
    """

    gligen: LoadedGligen
    entries: tuple[Entry, ...]
    channels: Entry | None
    strengths: tuple[float, ...]
    area: Box

    @property
    def inpaints(self) -> bool:
        return self.channels is not None and self.channels.kind is Inpainting

    def strength_at(self, picture: int) -> float:
        return at(self.strengths, picture)

    def entities(self, row: Row, size: Size) -> list[tuple[Entity, float]]:
        """Entity and strength of each entry that has something in a row of latents of this size."""
        picture = row.picture
        found = [(self.entity(e, row, size), e.strength_at(picture)) for e in self.entries]
        return [(entity, strength) for entity, strength in found if entity is not None]

    def entity(self, entry: Entry, row: Row, size: Size) -> Entity | None:
        entity = entry.at(row.picture)
        if entity is None or row.region is None:
            return None
        region = row.region.relative_to(self.area) if entity.of_area else row.region
        entity = entity.within(region)
        return entity and entity.fitted(size, self.gligen.net.position_net.side)


def groundings(entries: list[Entry], area: Box = WHOLE) -> tuple[Grounding, ...]:
    """One for each GLIGEN, in the order of the chain. Raises GligenError for more entities than a GLIGEN has
    slots, and where one lacks what its first convolution looks at."""
    by_gligen: dict[LoadedGligen, list[Entry]] = {}
    for entry in entries:
        if any(entry.strengths):
            by_gligen.setdefault(entry.gligen, []).append(entry)
    return tuple(_grounding(gligen, found, area) for gligen, found in by_gligen.items())


def _grounding(gligen: LoadedGligen, entries: list[Entry], area: Box) -> Grounding:
    tokenized = tuple(e for e in entries if e.kind.makes_tokens)
    gligen.check_count(len(tokenized))
    channels = next((e for e in entries if e.kind.makes_channels), None)
    if gligen.net.first_conv is None:
        channels = None
    elif channels is None:
        raise GligenError(
            f"gligen: {gligen.name} is a {gligen.net.kind.name} model and needs the picture that is to be "
            "painted into: add a GLIGEN Inpaint node, linked to this same model as the boxes are."
        )
    return Grounding(gligen, tokenized, channels, strongest(entries), area)


def strongest(of: Iterable[Entry | Grounding]) -> tuple[float, ...]:
    """The largest strength in each picture of a batch."""
    of = list(of)
    count = max(len(one.strengths) for one in of)
    return tuple(max(at(one.strengths, picture) for one in of) for picture in range(count))
