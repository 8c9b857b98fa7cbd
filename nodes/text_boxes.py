"""Many phrases with their boxes, from a text or from a link."""

from comfy_api.latest import io

from .encoders.phrases import ground_boxes
from .layouts.boxes import gather_frames
from .layouts.inputs import conditioning, pixels, strength

PLACEHOLDER = "one box a line: phrase: x, y, width, height\na red star: 0.1, 0.2, 0.3, 0.4"
OF_LINKED = (
    "in pixels of the picture that linked boxes were made on. Text and elements do not use it."
)


class GligenTextBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GligenTextBoxes",
            display_name="GLIGEN Text Boxes",
            category="conditioning/gligen",
            description="Places many things at once: boxes with phrases, typed as text or JSON, from the "
            "box editor (Create Bounding Boxes) or from a detector.",
            search_aliases=["gligen", "bounding boxes", "layout", "grounding", "regional prompt"],
            inputs=[
                conditioning(),
                io.Gligen.Input("gligen", tooltip="From the GLIGEN Model Loader."),
                io.Clip.Input("clip", tooltip="The CLIP of the base model; it reads the phrases."),
                io.String.Input(
                    "text", default="", multiline=True, placeholder=PLACEHOLDER,
                    tooltip="One box a line as phrase: x, y, width, height, in fractions of the image "
                    "from its top left corner, for example a red star: 0.1, 0.2, 0.3, 0.4. "
                    "Lines that start with # are ignored. JSON works too. A line without "
                    "numbers is the phrase of the next linked box that has none.",
                ),
                io.MultiType.Input(
                    "boxes", [io.BoundingBox, io.Custom("ARRAY")], optional=True,
                    tooltip="Boxes from a detector, or bboxes or elements of Create Bounding Boxes "
                    "(elements carry the descriptions as phrases, bboxes none). Boxes of several "
                    "images go to the images of the batch one by one; the last stays for any more.",
                ),
                pixels("width", 1, f"Width {OF_LINKED}"),
                pixels("height", 1, f"Height {OF_LINKED}"),
                strength(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with its boxes.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, conditioning, gligen, clip, text, width, height, boxes=None, strength=1.0
    ) -> io.NodeOutput:
        frames = gather_frames(text, boxes, width, height)
        return io.NodeOutput(ground_boxes(conditioning, gligen, clip, frames, strength))
