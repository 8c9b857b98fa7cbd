"""The entities inside a CONDITIONING, under the host's own key.

    cond["gligen"] = ("position", GLIGEN, entries)

An entry of the host's nodes is a tuple (phrase feature [1, F], height, width, y, x) in latent pixels, for
the GLIGEN beside it. One of this pack belongs to a GLIGEN of its own, may be another entity in each frame
of a batch, and is, for the host, the same tuple with fractions of the image in place of pixels.
"""

from ..gligen_ops.entity import Box, Entity
from ..gligen_ops.errors import GligenError

KEY = "gligen"


class Fraction(float):
    """A length as a share of the image: divided by the image's length it is still that share."""

    def __truediv__(self, length) -> float:
        return float(self)

    def __add__(self, other) -> "Fraction":
        return Fraction(float(self) + float(other))


class Entry(tuple):
    """gligen: the ModelPatcher of a seat. frames: what is grounded in each frame of a batch, None where
    nothing new is; one frame stands for all. strength: of its grounding, 0 and up."""

    def __new__(cls, gligen, frames: list, strength: float = 1.0) -> "Entry":
        entry = super().__new__(cls, _host_tuple(frames[0]))
        entry.gligen, entry.frames, entry.strength = gligen, frames, strength
        return entry

    def of(self, gligen) -> "Entry":
        """The same for another GLIGEN."""
        return Entry(gligen, self.frames, self.strength)

    def at(self, frame: int):
        """What is grounded in a frame: the last that there was up to it, or None."""
        known = [f for f in self.frames[: frame + 1] if f is not None]
        return known[-1] if known else None


def _host_tuple(entity) -> tuple:
    if not isinstance(entity, Entity) or entity.text is None:
        return ()
    box = entity.box
    lengths = (box.y1 - box.y0, box.x1 - box.x0, box.y0, box.x0)
    return (entity.text[None], *map(Fraction, lengths))


def entries_of(cond: dict) -> list[Entry]:
    """The entries of a conditioning, those of other packs' nodes made ones of this pack."""
    if cond.get(KEY) is None:
        return []
    kind, gligen, entries = cond[KEY]
    if kind == "position_batched":  # KJNodes: for each frame its boxes
        return [Entry(gligen, frames) for frames in by_entity(entries)]
    if kind != "position":
        raise GligenError(
            f'conditioning: it carries GLIGEN boxes of a kind ("{kind}") that this pack does not know. '
            "Make them with the GLIGEN Text Box or GLIGEN Text Boxes node."
        )
    return [e if isinstance(e, Entry) else Entry(gligen, [e]) for e in entries]


def by_entity(frames: list[list]) -> list[list]:
    """Entities of each frame → frames of each entity, None in a frame that has fewer."""
    count = max(map(len, frames), default=0)
    return [[f[i] if i < len(f) else None for f in frames] for i in range(count)]


def carried(cond: dict, gligens: list, entries: list[Entry]) -> dict:
    """What a conditioning has where it carries entries of these GLIGENs, so that the host loads each."""
    values = {KEY: ("position", gligens[0], entries)}
    others = list(dict.fromkeys([*cond.get("additional_models", []), *gligens[1:]]))
    return {**values, "additional_models": others} if others else values


def frame_count(entries: list[Entry]) -> int:
    return max((len(e.frames) for e in entries), default=1)


def entities_at(entries: list[Entry], frame: int, height: float, width: float) -> list[tuple]:
    """(entity, strength) of each entry that has one in this frame, on a latent of height × width."""
    found = [(e.at(frame), e.strength) for e in entries]
    return [(_entity(f, height, width), strength) for f, strength in found if f is not None]


def _entity(item, height: float, width: float):
    if not isinstance(item, tuple):
        return item
    feature, h, w, y, x = item
    box = Box(x / width, y / height, (x + w) / width, (y + h) / height)
    return Entity(box, text=feature.reshape(-1).float())
