from comfy_api.latest import io

from ..gligen_ops.entities import PhraseBox
from ..gligen_ops.places import Box
from .encoders.phrases import ground_boxes
from .layouts.inputs import box_inputs, conditioning, strength


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
                conditioning(),
                io.Gligen.Input("gligen", tooltip="From the GLIGEN Model Loader."),
                io.Clip.Input("clip", tooltip="The CLIP of the base model; it reads the text."),
                io.String.Input(
                    "text", default="",
                    tooltip="What appears in the box: a short phrase, such as 'a red ball'.",
                ),
                *box_inputs(),
                strength(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with this box.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, conditioning, gligen, clip, text, x, y, width, height, strength=1.0
    ) -> io.NodeOutput:
        box = PhraseBox(text, Box.from_size(x, y, width, height))
        return io.NodeOutput(ground_boxes(conditioning, gligen, clip, [[box]], strength))
