"""What a conditioning grounds, on its way over the pictures of a batch to where another has it."""

from collections.abc import Callable
from dataclasses import replace

from ...gligen_ops.errors import GligenError
from .carrier import CONTROL, Carrier, carried_by, changed
from .conditioning import Conditioning, Entry, at

Share = Callable[[float], float]
"""The place in time, 0..1 → how much of the way is done, 0..1."""


def moving(begin: Conditioning, end: Conditioning, count: int, share: Share) -> Conditioning:
    """The conditioning with frames for `count` pictures, at `begin` in the first and at `end` in the last.
    Where it has several frames already, so many are added after them. Raises GligenError where the two do
    not ground the same things."""
    if len(begin) != len(end):
        raise GligenError(
            f"begin, end: begin combines {len(begin)} prompts and end {len(end)}. Move each prompt by "
            "itself, and combine them afterwards."
        )
    return [
        [text, _moving(cond, other, count, share)]
        for (text, cond), (_, other) in zip(begin, end, strict=True)
    ]


def _moving(cond: dict, other: dict, count: int, share: Share) -> dict:
    entries, ends = carried_by(cond), carried_by(other)
    _check_alike(entries, ends)
    kept = max((entry.length for entry in entries if entry.length > 1), default=0)
    if kept:
        shares = [share((i + 1) / count) for i in range(count)]
    else:
        shares = [share(i / max(1, count - 1)) for i in range(count)]
    moved = iter([_moved(*pair, kept, shares) for pair in zip(entries, ends, strict=True)])

    def change(carrier: Carrier) -> dict:
        return {"entries": tuple(next(moved) for _ in carrier.entries)}

    return {**cond, CONTROL: changed(cond.get(CONTROL), change)} if entries else cond


def _moved(entry: Entry, end: Entry, kept: int, shares: list[float]) -> Entry:
    """kept: how many pictures the entry has frames for already, after which those of the shares come."""
    last = max(0, kept - 1)
    here, there = at(entry.frames, last), at(end.frames, 0)
    ways = [here and there and here.towards(there, share) for share in shares]
    low, high = entry.strength_at(last), end.strength_at(0)
    strengths = [low + share * (high - low) for share in shares]
    return replace(
        entry,
        frames=(*(at(entry.frames, i) for i in range(kept)), *ways),
        strengths=(*(entry.strength_at(i) for i in range(kept)), *strengths),
    )


def _check_alike(entries: list[Entry], ends: list[Entry]) -> None:
    if len(entries) != len(ends):
        raise GligenError(
            f"begin, end: begin grounds {len(entries)} things and end {len(ends)}. Both need the same "
            "things in the same order; what comes or goes has strength 0 where it is not there."
        )
    unlike = [
        f"thing {number}: {_name(a)} in begin, {_name(b)} in end"
        for number, (a, b) in enumerate(zip(entries, ends, strict=True), start=1)
        if a.gligen is not b.gligen or a.kind is not b.kind or _label(a) != _label(b)
    ]
    if unlike:
        cure = "Both need the same things in the same order, by the same GLIGEN models."
        raise GligenError("\n".join(["begin, end: they ground different things.", *unlike, cure]))


def _label(entry: Entry) -> str:
    return next(entity.label() for entity in entry.frames if entity is not None)


def _name(entry: Entry) -> str:
    label = _label(entry)
    return (
        f"'{label}' ({entry.gligen.name})"
        if label
        else f"a {entry.kind.noun} ({entry.gligen.name})"
    )
