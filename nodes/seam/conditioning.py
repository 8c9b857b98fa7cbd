"""Puts grounding into a CONDITIONING."""

from ...gligen_ops.entities import Entity
from .carrier import KEY, Carrier
from .entries import Conditioning, Entry
from .gligens import LoadedGligen


def ground(
    conditioning: Conditioning,
    gligen: LoadedGligen,
    frames_of_entities: list[tuple[Entity | None, ...]],
    strength: float = 1.0,
) -> Conditioning:
    """The conditioning with more entities of a GLIGEN, each given frame by frame. Raises GligenError where
    they are more than the model has slots for."""
    new = [Entry(gligen, tuple(frames), strength) for frames in frames_of_entities]
    return [[text, {**cond, KEY: _carrying(cond, gligen, new)}] for text, cond in conditioning]


def _carrying(cond: dict, gligen: LoadedGligen, new: list[Entry]) -> Carrier:
    control = cond.get(KEY)
    if isinstance(control, Carrier):
        carrier = control.with_entries(new)
    else:
        carrier = Carrier(new, control)
    gligen.check_count(
        sum(e.gligen is gligen and e.kind.makes_tokens for e in carrier.entries_of_chain())
    )
    return carrier
