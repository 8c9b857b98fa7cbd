"""Shows what a conditioning grounds."""

from collections import Counter
from dataclasses import replace

import torch
from comfy_api.latest import io, ui

from ..gligen_ops.entities import PhraseBox
from .layouts.inputs import pixels
from .pictures.drawing import draw_boxes, draw_lines
from .pictures.images import from_picture, three_channels, to_picture
from .seam.conditioning import entities_in

GREY = 0.5
LATENT_PIXEL = 8


class GligenPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GligenPreview",
            display_name="GLIGEN Preview",
            category="conditioning/gligen",
            description="Draws the boxes, phrases and poses that a conditioning carries, over a picture "
            "or an empty canvas: check a layout before the run, or a result against it.",
            search_aliases=["gligen", "draw boxes", "show boxes", "layout"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt whose boxes are to be shown."
                ),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="The picture to draw on, every one of a batch. Without it: a canvas.",
                ),
                pixels(
                    "width", 16, "Width of the empty canvas in pixels. Not used with an image."
                ),
                pixels(
                    "height", 16, "Height of the empty canvas in pixels. Not used with an image."
                ),
            ],
            outputs=[io.Image.Output(tooltip="The picture with the boxes drawn on it.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, conditioning, width, height, image=None) -> io.NodeOutput:
        if image is None:
            image = torch.full((1, height, width, 3), GREY)
        image = three_channels(image)
        _, height, width, _ = image.shape
        pictures = []
        for frame, one in enumerate(image):
            size = max(1, height // LATENT_PIXEL), max(1, width // LATENT_PIXEL)
            entities = entities_in(conditioning, size, frame)
            named = list(dict.fromkeys((e.label(), e.sketch()) for e in entities))
            picture = draw_lines(to_picture(one), [s for _, s in named if s.lines or s.dots])
            boxes = [PhraseBox(label, sketch.box) for label, sketch in named if sketch.box]
            pictures.append(from_picture(draw_boxes(picture, told_apart(boxes))))
        drawn = torch.stack(pictures)
        return io.NodeOutput(drawn, ui=ui.PreviewImage(drawn, cls=cls))


def told_apart(boxes: list[PhraseBox]) -> list[PhraseBox]:
    """The boxes, those of the same name with numbers behind it."""
    count = Counter(box.phrase for box in boxes)
    number: Counter[str] = Counter()
    named = []
    for box in boxes:
        number[box.phrase] += 1
        several = box.phrase and count[box.phrase] > 1
        name = f"{box.phrase} {number[box.phrase]}" if several else box.phrase
        named.append(replace(box, phrase=name))
    return named
