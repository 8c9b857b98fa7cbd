import comfy.samplers
from comfy_api.latest import io

import nodes as host

from ..gligen_ops.schedule import BetaSchedule
from .beta_schedule import refresh_input, schedule_inputs
from .seam import patch
from .seam.run import Settings


class GligenKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenKSampler",
            display_name="GLIGEN KSampler",
            category="sampling",
            description="KSampler with GLIGEN's β schedule built in.",
            search_aliases=["gligen", "grounding", "sampler"],
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="The random seed of the noise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Denoising steps."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="Classifier-free guidance: how closely the picture follows the prompt.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The sampler."
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS,
                    tooltip="How noise falls over the steps.",
                ),
                io.Conditioning.Input("positive", tooltip="What to draw, with its GLIGEN boxes."),
                io.Conditioning.Input("negative", tooltip="What to avoid."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="1 starts from pure noise; less keeps more of the latent image.",
                ),
                *schedule_inputs(),
                refresh_input(),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
        denoise, tau, decay, strength, negative_grounding, refresh_every=1,
    ) -> io.NodeOutput:  # fmt: skip
        betas = BetaSchedule(tau, decay, strength)
        model = patch.with_settings(model, Settings(betas, negative_grounding, refresh_every))
        (latent,) = host.common_ksampler(
            model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
            denoise,
        )  # fmt: skip
        return io.NodeOutput(latent)
