from comfy_api.latest import io

from ..gligen_ops.tokenizers.keypoints import KeypointTokenizer
from .layouts.inputs import conditioning, strength
from .layouts.poses import poses
from .seam.conditioning import by_entity, ground
from .seam.gligens import need


class GligenKeypoints(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenKeypoints",
            display_name="GLIGEN Keypoints",
            category="conditioning/gligen",
            description="Draws people in given poses: up to 8, each by the 17 keypoints of its body.",
            search_aliases=["gligen", "pose", "openpose", "skeleton", "person", "grounding"],
            inputs=[
                conditioning(),
                io.Gligen.Input(
                    "gligen", tooltip="A GLIGEN model for keypoints, from the GLIGEN Model Loader."
                ),
                io.Custom("POSE_KEYPOINT").Input(
                    "pose_keypoint", optional=True,
                    tooltip="From a pose detector, such as SDPose or DWPose. Of several frames each "
                    "goes to one image of the batch; the last stays for any more.",
                ),
                io.String.Input(
                    "json", default="", multiline=True, placeholder="or a pose as OpenPose JSON",
                    tooltip="The pose as JSON, where none is connected: OpenPose's format, or a list of "
                    "people, each a list of 17 points [x, y] in COCO's order from 0 to 1, [0, 0] where "
                    "a point is missing.",
                ),
                io.Float.Input(
                    "confidence", default=0.3, min=0.0, max=1.0, step=0.05, round=0.001,
                    tooltip="Points that the detector is less sure of than this count as missing.",
                ),
                strength(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with these people.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, conditioning, gligen, json, confidence, pose_keypoint=None, strength=1.0
    ) -> io.NodeOutput:
        gligen = need(gligen, KeypointTokenizer)
        people = by_entity(poses(pose_keypoint, json, confidence))
        return io.NodeOutput(ground(conditioning, gligen, people, strength))
