from comfy_api.latest import io

from .layouts.inputs import curve_input, curve_of
from .seam.moving import moving


class GligenMove(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenMove",
            display_name="GLIGEN Move",
            category="conditioning/gligen",
            description="Moves what a prompt grounds over the pictures of a batch, from where one layout has "
            "it to where another has it: boxes, poses and strengths. Chain several for several keyframes.",
            search_aliases=["gligen", "keyframe", "animate", "interpolate", "moving box"],
            inputs=[
                io.Conditioning.Input(
                    "begin", tooltip="The prompt with its layout in the first picture, or another GLIGEN "
                    "Move's, which goes on from its last."
                ),
                io.Conditioning.Input(
                    "end", tooltip="The same things, where they are in the last picture. Its prompt is not "
                    "used."
                ),
                io.Int.Input(
                    "frames", default=16, min=1, max=4096,
                    tooltip="How many pictures the way takes. Give the latent as many.",
                ),
                curve_input(
                    "How much of the way is done (up) at which time (right); without it, evenly. Connect a "
                    "Curve node."
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with its moving layout.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, begin, end, frames, curve=None) -> io.NodeOutput:
        share = curve_of(curve) or (lambda time: time)
        return io.NodeOutput(moving(begin, end, frames, share))
