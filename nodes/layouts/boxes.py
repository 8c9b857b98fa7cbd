"""Many boxes at once, from the text widget and from a link: everything becomes fractions."""

import json
import re
from dataclasses import replace
from typing import Any

from ...gligen_ops.entities import Box, PhraseBox
from ...gligen_ops.errors import GligenError
from .linked_boxes import SIZES, four_numbers, frames_of, label, phrase_of, read_link, short

LINE_HELP = (
    "Write one box a line as phrase: x, y, width, height, in fractions of the image from 0 to 1 "
    "with a decimal point, for example: a red star: 0.1, 0.2, 0.3, 0.4"
)
JSON_HELP = (
    "Write fractions of the image from 0 to 1, for example: "
    '[{"phrase": "a red star", "x": 0.1, "y": 0.2, "width": 0.3, "height": 0.4}]'
)
Named = tuple[str, str]
"""The place of a phrase in the text, for messages, and the phrase."""
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def gather_frames(
    text: str, link: Any = None, width: int = 1, height: int = 1
) -> list[list[PhraseBox]]:
    """Of each image of a batch the linked boxes, in pixels of width × height or elements, then those of
    the text, which are in every image; lines without numbers name linked boxes in order."""
    links = frames_of(link)
    frames, problems = [], []
    for number, one in enumerate(links, start=1):
        try:
            frames.append(_gather(text, one, width, height, spare_phrases=len(links) > 1))
        except GligenError as error:
            problems.append(f"Image {number} of the batch: {error}" if links[1:] else str(error))
    if problems:
        raise GligenError("\n".join(problems))
    return frames


def _gather(text: str, link: Any, width: int, height: int, spare_phrases: bool) -> list[PhraseBox]:
    text_problems: list[str] = []
    link_problems: list[str] = []
    if text.lstrip()[:1] in ("[", "{"):
        typed, phrases, text_help = _read_json(text, text_problems), [], JSON_HELP
    else:
        typed, phrases = _read_lines(text, link is not None, text_problems)
        text_help = LINE_HELP
    linked = read_link(link, width, height, link_problems)
    link_help = (
        f"Boxes in pixels refer to width and height, now {width} by {height}: "
        "set them to the size of the picture that the boxes were made on."
    )
    if not link_problems:
        unused: list[str] = []
        linked = _named(linked, phrases, unused, link_problems)
        text_problems += [] if spare_phrases else unused
        link_help = "Type their phrases in text, one a line, in the order of the boxes."
    message = _section("text", text_problems, text_help)
    message += _section("boxes", link_problems, link_help)
    if message:
        raise GligenError("\n".join(message))
    return linked + typed


def _section(name: str, problems: list[str], help_: str) -> list[str]:
    return [f"The input {name} cannot be used:", *problems, help_] if problems else []


def _read_lines(
    text: str, phrases_allowed: bool, problems: list[str]
) -> tuple[list[PhraseBox], list[Named]]:
    boxes, phrases = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        place = f'Line {number} ("{short(line)}")'
        read = _read_line(line)
        if isinstance(read, PhraseBox):
            boxes.append(read)
        elif read:
            problems.append(f"{place}: {read}.")
        elif phrases_allowed:
            phrases.append((place, line.rstrip(": ")))
        else:
            problems.append(f"{place}: it has no box.")
    return boxes, phrases


def _read_line(line: str) -> PhraseBox | str | None:
    """The box of a line, or what is wrong with it, or None where it is a phrase alone."""
    phrase, colon, rest = line.rpartition(":")
    words = rest.strip(" []()").replace(",", " ").split()
    wrong = [word for word in words if not NUMBER.fullmatch(word)]
    if not colon:
        numbers_at_end = len(words) > 4 and not set(wrong) & set(words[-4:])
        return "a colon is missing between the phrase and its numbers" if numbers_at_end else None
    if len(words) - len(wrong) < 2:
        return None
    if wrong:
        return f"not a number: {', '.join(map(short, wrong))}"
    if len(words) != 4:
        return f"it has {len(words)} numbers after its last colon, expected 4"
    return _typed_box(phrase, [float(word) for word in words])


def _read_json(text: str, problems: list[str]) -> list[PhraseBox]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(
            f'It starts with "{text.lstrip()[0]}" and so was read as JSON, which stops making '
            f"sense at line {error.lineno}, column {error.colno}: {error.msg}."
        )
        return []
    if isinstance(items, dict):
        items = items.get("boxes", [items])
    if not isinstance(items, list):
        problems.append(f'"boxes" must be a list, got {short(items)}.')
        return []
    boxes = []
    for number, item in enumerate(items, start=1):
        read = _read_object(item)
        if isinstance(read, PhraseBox):
            boxes.append(read)
        else:
            problems.append(f"Box {number}{label(item)}: {read}.")
    return boxes


def _read_object(item: Any) -> PhraseBox | str:
    if not isinstance(item, dict):
        return f"expected an object in {{}}, got {short(item)}"
    missing = [key for key in SIZES if key not in item]
    if missing and "box" not in item:
        return f"{', '.join(missing)} missing"
    values = item.get("box", [item.get(key) for key in SIZES])
    numbers = four_numbers(values)
    if numbers is None:
        return f"x, y, width and height must be four numbers, got {short(values)}"
    return _typed_box(phrase_of(item), numbers)


def _typed_box(phrase: str, numbers: list[float]) -> PhraseBox | str:
    phrase, box = phrase.strip(), Box.from_size(*numbers)
    return box.problem() or (PhraseBox(phrase, box.cut()) if phrase else "its phrase is empty")


def _named(
    boxes: list[PhraseBox],
    phrases: list[Named],
    text_problems: list[str],
    link_problems: list[str],
) -> list[PhraseBox]:
    """The boxes, those without a phrase given the next of `phrases`."""
    nameless = [index for index, entity in enumerate(boxes) if not entity.phrase]
    boxes = list(boxes)
    for index, (_, phrase) in zip(nameless, phrases, strict=False):
        boxes[index] = replace(boxes[index], phrase=phrase)
    link_problems += [f"Box {i + 1}: it has no phrase." for i in nameless[len(phrases) :]]
    text_problems += [
        f"{place}: every linked box has a phrase already. Delete the line or add a box to it."
        for place, _ in phrases[len(nameless) :]
    ]
    return boxes
