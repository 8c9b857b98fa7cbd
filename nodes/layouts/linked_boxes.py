"""Boxes that arrive on a link, from a detector or the host's box editor, as fractions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...gligen_ops.entities import PhraseBox
from ...gligen_ops.errors import GligenError
from ...gligen_ops.places import Box
from .problems import Problems, short

SIZES = ("x", "y", "width", "height")
PHRASE_KEYS = ("phrase", "label", "desc", "text")
GRID = 1000
"""The host's elements count the image in thousandths, whatever its size."""


def frames_of(value: Any) -> list:
    """What a link holds, image by image: detectors give a list for each image of a batch."""
    nested = isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple)
    return list(value) if nested else [value]


def read_link(value: Any, width: int, height: int, problems: Problems) -> list[PhraseBox]:
    """The boxes of one frame. Their phrases may be empty."""
    items = [value] if isinstance(value, dict) else [] if value is None else value
    if not isinstance(items, list | tuple):
        problems.add(f"Expected bounding boxes or elements, got {short(value)}.")
        return []
    return each_box(items, lambda item: _linked_box(item, width, height), problems)


def each_box(
    items: Sequence, read: Callable[[Any], PhraseBox], problems: Problems
) -> list[PhraseBox]:
    """The boxes that can be read of the items."""
    boxes = []
    for number, item in enumerate(items, start=1):
        phrase = phrase_of(item) if isinstance(item, dict) else ""
        with problems.at(f"Box {number} ({short(phrase)})" if phrase else f"Box {number}"):
            boxes.append(read(item))
    return boxes


def _linked_box(item: Any, width: int, height: int) -> PhraseBox:
    if not isinstance(item, dict):
        raise GligenError(f"expected a bounding box or an element, got {short(item)}.")
    if "bbox" in item:
        corners, across, down = four_numbers(item["bbox"]), GRID, GRID
        if corners:
            y0, x0, y1, x1 = corners
            corners = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    else:
        corners, across, down = four_numbers([item.get(key) for key in SIZES]), width, height
        if corners:
            x, y, box_width, box_height = corners
            corners = x, y, x + box_width, y + box_height
    if not corners:
        raise GligenError(
            "expected the numbers x, y, width, height, or bbox: [ymin, xmin, ymax, xmax]."
        )
    if min(across, down) < 1:
        raise GligenError(f"an image of {across} by {down} pixels has no room for it.")
    box = Box(*(v / size for v, size in zip(corners, (across, down) * 2, strict=True)))
    if box.is_outside():
        place = "from ({:g}, {:g}) to ({:g}, {:g})".format(*corners)
        raise GligenError(f"it reaches {place}, but the image is {across} by {down}.")
    return PhraseBox(phrase_of(item), cut(box))


def cut(box: Box) -> Box:
    """What of the box is in the image."""
    problem = box.problem()
    if problem:
        raise GligenError(f"{problem}.")
    return box.cut()


def phrase_of(item: dict) -> str:
    """The first text that an object, or the editor's metadata in it, carries."""
    metadata = item.get("metadata")
    sources = (item, metadata if isinstance(metadata, dict) else {})
    texts = [source.get(key) for source in sources for key in PHRASE_KEYS]
    return next((t.strip() for t in texts if isinstance(t, str) and t.strip()), "")


def four_numbers(values: Any) -> list[float] | None:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None
