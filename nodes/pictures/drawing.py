"""Draws boxes with their phrases, and poses, over a picture."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...gligen_ops.entities import PhraseBox
from ...gligen_ops.places import Box, Sketch

COLOURS = (
    (230, 60, 60), (40, 140, 240), (250, 190, 30), (40, 170, 90),
    (200, 90, 220), (250, 130, 40), (40, 200, 210), (240, 120, 170),
)  # fmt: skip
HALO = (16, 16, 16)
SMALLEST_TEXT = 10

Rectangle = tuple[int, int, int, int]


def draw_boxes(image: Image.Image, boxes: list[PhraseBox]) -> Image.Image:
    """A copy of the picture with every box outlined and named."""
    image = image.convert("RGB")
    draw = ImageDraw.Draw(image)
    short_side = min(image.size)
    font = ImageFont.load_default(max(SMALLEST_TEXT, short_side // 32))
    line = max(1, short_side // 200)
    outlines = [_pixels(entity.box, image.size) for entity in boxes]
    for number, outline in enumerate(outlines):
        x0, y0, x1, y1 = outline
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=HALO, width=line + 2)
        draw.rectangle(outline, outline=_colour(number), width=line)
    taken: list[Rectangle] = []
    for number, (entity, outline) in enumerate(zip(boxes, outlines, strict=True)):
        name = entity.phrase.strip() or f"box {number + 1}"
        pad = font.size / 4
        label = fitted(" ".join(name.split()), font, image.width - 2 * pad)
        size = round(font.getlength(label) + 2 * pad), round(sum(font.getmetrics()) + pad)
        tag = _place(size, outline, image.size, taken)
        taken.append(tag)
        draw.rectangle(tag, fill=_colour(number))
        middle = (tag[0] + tag[2] + 1) / 2, (tag[1] + tag[3] + 1) / 2
        draw.text(middle, label, fill=_text_colour(_colour(number)), font=font, anchor="mm")
    return image


def draw_lines(image: Image.Image, sketches: list[Sketch]) -> Image.Image:
    """A copy of the picture with the lines and dots of every sketch."""
    image = image.convert("RGB")
    draw = ImageDraw.Draw(image)
    line = max(2, min(image.size) // 90)
    size = np.array(image.size)
    for number, sketch in enumerate(sketches):
        for ends in sketch.lines:
            draw.line([tuple(end * size) for end in ends], fill=_colour(number), width=line)
        for x, y in (dot * size for dot in sketch.dots):
            draw.ellipse((x - line, y - line, x + line, y + line), fill="white", outline=HALO)
    return image


def _colour(number: int) -> tuple[int, int, int]:
    """The listed colours first, then ever new hues."""
    if number < len(COLOURS):
        return COLOURS[number]
    hue = number * 0.618034 % 1
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.7, 0.9))


def _text_colour(background: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def _pixels(box: Box, size: tuple[int, int]) -> Rectangle:
    """The first and last column and row of the box, inside the picture, at least one of each."""
    width, height = size
    rows, columns = box.pixels(height, width)
    x0, y0 = columns.start, rows.start
    return (
        x0,
        y0,
        min(max(columns.stop - 1, x0), width - 1),
        min(max(rows.stop - 1, y0), height - 1),
    )


def fitted(label: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The label, or as much of its start as the room holds."""
    if font.getlength(label) <= room:
        return label
    while label and font.getlength(label + "…") > room:
        label = label[:-1]
    return label.rstrip() + "…"


def _place(
    size: tuple[int, int], box: Rectangle, picture: tuple[int, int], taken: list[Rectangle]
) -> Rectangle:
    """Where a tag goes, all of it in the picture: above the box, in it or below it, off others."""
    (width, height), (x0, y0, _, y1) = size, box
    x = max(0, min(x0, picture[0] - width))
    rows = [y0 - height, y0, y1 + 1 - height, y1 + 1]
    rows = [row for row in rows if 0 <= row <= picture[1] - height]
    tags = [(x, row, x + width - 1, row + height - 1) for row in rows or [0]]
    return next((tag for tag in tags if not any(_touch(tag, t) for t in taken)), tags[0])


def _touch(a: Rectangle, b: Rectangle) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
