from comfy_api.latest import io

from ..gligen_ops.schedule import BetaSchedule
from .layouts.inputs import curve_input, curve_of
from .seam import patch
from .seam.betas import COUNTS
from .seam.run import NEGATIVE_GROUNDINGS, Settings


def schedule_inputs() -> list[io.Input]:
    """The inputs that the schedule node and the sampler node share."""
    return [
        io.Float.Input(
            "tau", default=0.3, min=0.0, max=1.0, step=0.01, round=0.0001,
            tooltip="Share of the steps, from the first, in which grounding is fully on (β = 1). More "
            "holds the layout more strictly, less leaves more to the base model. The authors use 0.3 "
            "for boxes. Above 0 it is at least one step.",
        ),
        io.Float.Input(
            "decay", default=0.0, min=0.0, max=1.0, step=0.01, round=0.0001,
            tooltip="Share of the steps after that in which β falls linearly to 0. After it grounding "
            "is off and costs nothing.",
        ),
        io.Float.Input(
            "strength", default=1.0, min=0.0, max=10.0, step=0.05, round=0.0001,
            tooltip="Multiplies β. 1 is as trained, 0 is off; above 1 often breaks the picture.",
        ),
        io.Combo.Input(
            "negative_grounding", options=list(NEGATIVE_GROUNDINGS), default="null",
            tooltip="What the negative prompt gets. null: the model's learned 'no objects', as in the "
            "paper; same: the boxes of the positive, as ComfyUI's own GLIGEN does; none: no GLIGEN.",
        ),
    ]  # fmt: skip


def refresh_input() -> io.Input:
    return io.Int.Input(
        "refresh_every", default=1, min=1, max=20, optional=True,
        tooltip="1 computes the grounding at every call of the model, which is exact. 2 and more keep what "
        "it adds for so many calls: faster, at nearly the same picture.",
    )  # fmt: skip


class GligenBetaSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenBetaSchedule",
            display_name="GLIGEN β Schedule",
            category="model/patch/unet",
            description="Sets in which steps of a run GLIGEN's layers are on, for any sampler. Without "
            "this node they are on in every step.",
            search_aliases=["gligen", "grounding", "scheduled sampling", "tau", "beta"],
            inputs=[
                io.Model.Input("model", tooltip="The base model, on its way to the sampler."),
                *schedule_inputs(),
                curve_input(
                    "β over the run, from the first step (left) to the last (right), in place of tau and "
                    "decay. Connect a Curve node."
                ),
                refresh_input(),
                io.Combo.Input(
                    "count", options=list(COUNTS), default=COUNTS[0], optional=True,
                    tooltip="What the shares are of. steps: those that the sampler runs; noise level: the "
                    "way from the most noise to none, so that a run cut into pieces is grounded as the "
                    "whole; automatic: steps for a whole run, noise level for a piece of one.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For the sampler.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, tau, decay, strength, negative_grounding, curve=None, refresh_every=1,
        count=COUNTS[0],
    ) -> io.NodeOutput:  # fmt: skip
        betas = BetaSchedule(tau, decay, strength, curve_of(curve))
        settings = Settings(betas, negative_grounding, refresh_every, count)
        return io.NodeOutput(patch.with_settings(model, settings))
