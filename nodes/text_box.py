from comfy_api.latest import io

from ..gligen_ops.entity import Box, PhraseBox
from .grounding import ground_boxes


def fraction(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, round=0.0001, tooltip=tooltip
    )


class GligenTextBox(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenTextBox",
            display_name="GLIGEN Text Box",
            category="conditioning/gligen",
            description="Puts what the text names into a box of the image. Chain several for several "
            "objects, and name them in the prompt too.",
            search_aliases=["gligen", "grounding", "layout", "bounding box", "region"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt, or another GLIGEN box."),
                io.Gligen.Input("gligen", tooltip="From the GLIGEN Model Loader."),
                io.Clip.Input("clip", tooltip="The CLIP of the base model; it reads the text."),
                io.String.Input(
                    "text",
                    default="",
                    tooltip="What appears in the box: a short phrase, such as 'a red ball'.",
                ),
                fraction("x", 0.25, "Left edge, as a share of the image's width: 0 left, 1 right."),
                fraction("y", 0.25, "Top edge, as a share of the image's height: 0 top, 1 bottom."),
                fraction("width", 0.5, "Width of the box, as a share of the image's width."),
                fraction("height", 0.5, "Height of the box, as a share of the image's height."),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with this box.")],
        )

    @classmethod
    def execute(cls, conditioning, gligen, clip, text, x, y, width, height) -> io.NodeOutput:
        box = PhraseBox(text, Box.from_size(x, y, width, height))
        return io.NodeOutput(ground_boxes(conditioning, gligen, clip, [box]))
