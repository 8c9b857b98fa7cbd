"""Boxes that arrive on a link, from a detector or the host's box editor, as fractions."""

import math
from typing import Any

from ...gligen_ops.entities import Box, PhraseBox

SIZES = ("x", "y", "width", "height")
PHRASE_KEYS = ("phrase", "label", "desc", "text")
GRID = 1000
"""The host's elements count the image in thousandths, whatever its size."""


def frames_of(value: Any) -> list:
    """What a link holds, image by image: detectors give a list for each image of a batch."""
    nested = isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple)
    return list(value) if nested else [value]


def read_link(value: Any, width: int, height: int, problems: list[str]) -> list[PhraseBox]:
    """The boxes of one frame, phrases may be empty. Adds to `problems`."""
    items = [value] if isinstance(value, dict) else [] if value is None else value
    if not isinstance(items, list | tuple):
        problems.append(f"Expected bounding boxes or elements, got {short(value)}.")
        return []
    boxes = []
    for number, item in enumerate(items, start=1):
        box = _linked_box(item, width, height)
        if isinstance(box, Box):
            boxes.append(PhraseBox(phrase_of(item), box))
        else:
            problems.append(f"Box {number}{label(item)}: {box}.")
    return boxes


def _linked_box(item: Any, width: int, height: int) -> Box | str:
    """The box as fractions, cut to the image, or what is wrong with it."""
    if not isinstance(item, dict):
        return f"expected a bounding box or an element, got {short(item)}"
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
        return "expected the numbers x, y, width, height, or bbox: [ymin, xmin, ymax, xmax]"
    if min(across, down) < 1:
        return f"an image of {across} by {down} pixels has no room for it"
    box = Box(*(v / size for v, size in zip(corners, (across, down) * 2, strict=True)))
    if box.is_outside():
        place = "from ({:g}, {:g}) to ({:g}, {:g})".format(*corners)
        return f"it reaches {place}, but the image is {across} by {down}"
    return box.problem() or box.cut()


def phrase_of(item: dict) -> str:
    """The first text that an object, or the editor's metadata in it, carries."""
    metadata = item.get("metadata")
    sources = (item, metadata if isinstance(metadata, dict) else {})
    texts = [source.get(key) for source in sources for key in PHRASE_KEYS]
    return next((t.strip() for t in texts if isinstance(t, str) and t.strip()), "")


def label(item: Any) -> str:
    phrase = phrase_of(item) if isinstance(item, dict) else ""
    return f" ({short(phrase)})" if phrase else ""


def four_numbers(values: Any) -> list[float] | None:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
