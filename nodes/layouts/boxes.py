"""Many boxes at once, from the text widget and from a link: everything becomes fractions."""

import re
from dataclasses import replace
from typing import Any

from ...gligen_ops.entities import PhraseBox
from ...gligen_ops.errors import GligenError
from ...gligen_ops.places import Box
from .linked_boxes import SIZES, cut, each_box, four_numbers, frames_of, phrase_of, read_link
from .problems import Problems, from_json, short

FRACTIONS = "in fractions of the image from 0 to 1 (5% is 0.05; pixels divided by the image's size)"
LINE_HELP = (
    f"Write one box a line as phrase: x, y, width, height, {FRACTIONS}, "
    "with a decimal point, for example: a red star: 0.1, 0.2, 0.3, 0.4"
)
JSON_HELP = (
    f"Write numbers {FRACTIONS}, for example: "
    '[{"phrase": "a red star", "x": 0.1, "y": 0.2, "width": 0.3, "height": 0.4}]'
)
Named = tuple[str, str]
"""The place of a phrase in the text, for messages, and the phrase."""
NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
NUMBERED = re.compile(r":\s*[\[(]?(-?[0-9.]+%?[\s,;]+){3}-?[0-9.]+%?[\])]?$")
"""A phrase with a box behind it."""
SURROGATE = re.compile("[\ud800-\udfff]")


def gather_frames(
    text: str, link: Any = None, width: int = 1, height: int = 1
) -> list[list[PhraseBox]]:
    """Of each image of a batch the linked boxes, in pixels of width × height or elements, then those of
    the text, which are in every image; lines without numbers name linked boxes in order."""
    links = frames_of(link)
    frames, problems = [], Problems()
    for number, one in enumerate(links, start=1):
        with problems.at(f"Image {number} of the batch" if links[1:] else ""):
            frames.append(_gather(text, one, width, height, spare_phrases=len(links) > 1))
    problems.refuse()
    return frames


def check_boxes(boxes: list[PhraseBox]) -> list[PhraseBox]:
    """The same boxes, cut to the image, or one GligenError that names every bad one."""
    checked, problems = [], Problems()
    for number, entity in enumerate(boxes, start=1):
        phrase = entity.phrase.strip()
        with problems.at(f"Box {number} ({phrase})" if phrase else f"Box {number}"):
            if not phrase:
                raise GligenError("its text is empty.")
            if SURROGATE.search(phrase):
                raise GligenError(
                    "its text has half a character, which nothing can read: type it anew."
                )
            if NUMBERED.search(phrase):
                raise GligenError(
                    "its text ends in numbers. Give them to x, y, width and height, or type the whole "
                    "line in GLIGEN Text Boxes."
                )
            checked.append(replace(entity, box=cut(entity.box)))
    problems.refuse()
    return checked


def _gather(text: str, link: Any, width: int, height: int, spare_phrases: bool) -> list[PhraseBox]:
    in_text, in_link = Problems(), Problems()
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] in ("[", "{"):
        typed, phrases, text_help = _read_json(text, in_text), [], JSON_HELP
    else:
        typed, phrases = _read_lines(text, link is not None, in_text)
        text_help = LINE_HELP
    linked = read_link(link, width, height, in_link)
    link_help = (
        f"Boxes in pixels refer to width and height, now {width} by {height}: "
        "set them to the size of the picture that the boxes were made on."
    )
    if not in_link.lines:
        unused = _name(linked, phrases, in_link)
        link_help = "Type their phrases in text, one a line, in the order of the boxes."
        for place, _ in [] if spare_phrases else unused:
            in_text.add(
                f"{place}: every linked box has a phrase already. Delete the line or add a box to it."
            )
    inputs = Problems()
    for name, problems, help_ in (("text", in_text, text_help), ("boxes", in_link, link_help)):
        with inputs.at(""):
            problems.refuse(f"The input {name} cannot be used:", help_)
    inputs.refuse()
    return linked + typed


def _read_lines(
    text: str, phrases_allowed: bool, problems: Problems
) -> tuple[list[PhraseBox], list[Named]]:
    boxes, phrases = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        place = f'Line {number} ("{short(line)}")'
        with problems.at(place):
            box = _read_line(line)
            if box:
                boxes.append(box)
            elif phrases_allowed:
                phrases.append((place, line.rstrip(": ")))
            else:
                problems.add("it has no box.")
    return boxes, phrases


def _read_line(line: str) -> PhraseBox | None:
    """The box of a line, None where it is a phrase alone."""
    phrase, colon, rest = line.rpartition(":")
    words = rest.strip(" []()").replace(",", " ").split()
    wrong = [word for word in words if not NUMBER.fullmatch(word)]
    if not colon:
        if len(words) > 4 and not set(wrong) & set(words[-4:]):
            raise GligenError("a colon is missing between the phrase and its numbers.")
        return None
    if sum(any(map(str.isdigit, word)) for word in words) < 2:
        return None
    if wrong:
        raise GligenError(f"not a number: {', '.join(map(short, wrong))}.")
    if len(words) != 4:
        comma = " Write 0.1, not 0,1." if len(words) == 8 else ""
        raise GligenError(f"it has {len(words)} numbers after its last colon, expected 4.{comma}")
    return _typed_box(phrase, [float(word) for word in words])


def _read_json(text: str, problems: Problems) -> list[PhraseBox]:
    try:
        items = from_json(text)
    except GligenError as error:
        problems.add(f'It starts with "{text.lstrip()[0]}" and so was read as JSON: {error}')
        return []
    if isinstance(items, dict):
        items = items.get("boxes", [items])
    if not isinstance(items, list):
        problems.add(f'"boxes" must be a list, got {short(items)}.')
        return []
    return each_box(items, _read_object, problems)


def _read_object(item: Any) -> PhraseBox:
    if not isinstance(item, dict):
        raise GligenError(f"expected an object in {{}}, got {short(item)}.")
    missing = [key for key in SIZES if key not in item]
    if missing and "box" not in item:
        raise GligenError(f"{', '.join(missing)} missing.")
    values = item.get("box", [item.get(key) for key in SIZES])
    numbers = four_numbers(values)
    if numbers is None:
        raise GligenError(f"x, y, width and height must be four numbers, got {short(values)}.")
    return _typed_box(phrase_of(item), numbers)


def _typed_box(phrase: str, numbers: list[float]) -> PhraseBox:
    box = cut(Box.from_size(*numbers))
    if not phrase.strip():
        raise GligenError("its phrase is empty.")
    return PhraseBox(phrase.strip(), box)


def _name(boxes: list[PhraseBox], phrases: list[Named], problems: Problems) -> list[Named]:
    """Gives boxes without a phrase the next of `phrases`. Returns those that are left over."""
    nameless = [index for index, entity in enumerate(boxes) if not entity.phrase]
    for index, (_, phrase) in zip(nameless, phrases, strict=False):
        boxes[index] = replace(boxes[index], phrase=phrase)
    for index in nameless[len(phrases) :]:
        problems.add(f"Box {index + 1}: it has no phrase.")
    return phrases[len(nameless) :]
