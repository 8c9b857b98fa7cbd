import folder_paths
from comfy_api.latest import io

from ..gligen_ops.entities import BoxEntity, PhraseBox
from ..gligen_ops.errors import GligenError
from ..gligen_ops.places import Box
from ..gligen_ops.tokenizers.text_image import TextImageTokenizer
from .encoders.phrases import phrase_features
from .encoders.pictures import CLIPS_OWN, image_feature
from .layouts.boxes import check_boxes
from .layouts.inputs import box_inputs, conditioning, strength
from .seam.conditioning import ground
from .seam.gligens import need

USES = ("image", "text and image", "style")
STYLE_BOX = Box(0.0, 1.0, 0.0, 1.0)
"""The box that the authors give a style, as they write it."""


class GligenImageBox(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenImageBox",
            display_name="GLIGEN Image Box",
            category="conditioning/gligen",
            description="Puts something that looks like a reference picture into a box of the image, or "
            "lends the picture's style to the whole.",
            search_aliases=["gligen", "reference image", "style", "grounding", "bounding box"],
            inputs=[
                conditioning(),
                io.Gligen.Input(
                    "gligen", tooltip="A GLIGEN model for text and image boxes (…-text-image-box)."
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    tooltip="The reference picture, from CLIP Vision Encode with CLIP ViT-L/14.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="Reads the text, and gives its text projection, which the picture needs. "
                    "Checkpoints of SD 1.x lack it: use CLIP Load with clip_l.safetensors, or choose "
                    "the authors' projection_matrix below.",
                ),
                io.String.Input(
                    "text", default="",
                    tooltip="What it is, where use is 'text and image': a short phrase. Not read with "
                    "another use.",
                ),
                *box_inputs(),
                io.Combo.Input(
                    "use", options=list(USES),
                    tooltip="image: the box gets what the picture shows; text and image: the text says "
                    "too what it is; style: the picture's colours and manner for the whole image (the "
                    "box is not used).",
                ),
                io.Combo.Input(
                    "projection", options=[CLIPS_OWN, *projection_files()], default=CLIPS_OWN,
                    tooltip="Where the text projection comes from: the CLIP, or a file of the authors "
                    "named projection_matrix (.pt or .safetensors) in models/gligen.",
                ),
                strength(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with this picture.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, conditioning, gligen, clip_vision_output, clip, text, x, y, width, height, use,
        projection, strength=1.0,
    ) -> io.NodeOutput:  # fmt: skip
        gligen = need(gligen, TextImageTokenizer)
        image = image_feature(clip_vision_output, clip, projection, gligen)
        with_text = use == "text and image"
        if with_text and not text.strip():
            raise GligenError("text: it is empty. Say what it is, or set use to 'image'.")
        phrase, box = text.strip() or use, STYLE_BOX
        if use != "style":
            box = check_boxes([PhraseBox(phrase, Box.from_size(x, y, width, height))])[0].box
        width = gligen.net.position_net.text_width
        feature = phrase_features(clip, [phrase], width)[phrase] if with_text else None
        entity = BoxEntity(box, phrase, feature, image)
        return io.NodeOutput(ground(conditioning, gligen, [(entity,)], strength))


def projection_files() -> list[str]:
    return [n for n in folder_paths.get_filename_list("gligen") if "projection" in n.lower()]
