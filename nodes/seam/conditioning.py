"""Puts grounding into a CONDITIONING."""

from ...gligen_ops.entities import Entity
from .carrier import CONTROL, Carrier, carried_by
from .entries import Conditioning, Entry
from .gligens import LoadedGligen


def ground(
    conditioning: Conditioning,
    gligen: LoadedGligen,
    entities: list[tuple[Entity | None, ...]],
    strength: float = 1.0,
) -> Conditioning:
    """The conditioning with more entities of a GLIGEN, each given frame by frame as in `Entry`. Raises
    GligenError where they are more than the model has slots for."""
    new = [Entry(gligen, frames, strength) for frames in entities]
    return [[text, _with_entries(cond, gligen, new)] for text, cond in conditioning]


def _with_entries(cond: dict, gligen: LoadedGligen, new: list[Entry]) -> dict:
    control = cond.get(CONTROL)
    if isinstance(control, Carrier):
        entries = (*control.entries, *new)
        carrier = Carrier(entries, control.previous_controlnet, control.cond_hint_original)
    else:
        carrier = Carrier(new, control)
    cond = {**cond, CONTROL: carrier}
    gligen.check_count(sum(e.gligen is gligen and e.kind.makes_tokens for e in carried_by(cond)))
    return cond
