"""Where the gated layers look during a run: a record of it, and pictures of the record."""

import torch
from comfy_api.latest import io

from ..gligen_ops.errors import GligenError
from .pictures.heat import bar_plot, heat_picture
from .seam import patch
from .seam.record import Record

GROUPS = ("all", "input", "middle", "output")
Attention = io.Custom("GLIGEN_ATTENTION")


class GligenAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenAttention",
            display_name="GLIGEN Attention",
            category="conditioning/gligen",
            description="Notes during a run where GLIGEN's layers look. Put it between the model and the "
            "sampler, after a GLIGEN β Schedule, and show what it noted with GLIGEN Attention Maps.",
            search_aliases=["gligen", "heat map", "attention"],
            inputs=[io.Model.Input("model", tooltip="The model on its way to the sampler.")],
            outputs=[
                io.Model.Output(tooltip="For the sampler."),
                Attention.Output("attention", tooltip="For GLIGEN Attention Maps."),
            ],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        record = Record()
        return io.NodeOutput(patch.recorded(model, record), record)


class GligenAttentionMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenAttentionMaps",
            display_name="GLIGEN Attention Maps",
            category="conditioning/gligen",
            description="Shows what GLIGEN Attention noted: for each grounded thing where the layers look "
            "at it, over the picture, and how far the gates of each layer are open.",
            search_aliases=["gligen", "heat map", "attention", "gates"],
            inputs=[
                Attention.Input("attention", tooltip="From GLIGEN Attention."),
                io.Image.Input("image", tooltip="The picture that the run made."),
                io.Combo.Input("layers", options=list(GROUPS), tooltip="Which part of the UNet."),
                io.Int.Input(
                    "first_step", default=0, min=0, max=10000, tooltip="First step shown, from 0."
                ),
                io.Int.Input(
                    "last_step", default=10000, min=0, max=10000, tooltip="Last step shown."
                ),
            ],
            outputs=[
                io.Image.Output("maps", tooltip="One picture for each grounded thing."),
                io.Image.Output("gates", tooltip="tanh(γ) of each layer."),
            ],
        )

    @classmethod
    def execute(cls, attention, image, layers, first_step, last_step) -> io.NodeOutput:
        if not attention.maps:
            raise GligenError(
                "attention: nothing was noted. Run the sampler with the model that GLIGEN Attention gives, "
                "with GLIGEN boxes in the prompt and tau above 0."
            )
        steps = range(first_step, last_step + 1)
        of_names = {name: attention.maps_of(name, steps, layers) for name in attention.names}
        pictures = [heat_picture(image[0], maps, name) for name, maps in of_names.items() if maps]
        if not pictures:
            steps = sorted({step for _, step, _ in attention.maps})
            raise GligenError(
                f"first_step, last_step: GLIGEN was on in the steps {steps[0]} to {steps[-1]} of this run. "
                "Choose some of those."
            )
        return io.NodeOutput(torch.stack(pictures), bar_plot(attention.gates)[None])
