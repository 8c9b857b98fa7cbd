"""Small models of the host's own classes with random weights, and a sampling run on them."""

import torch
from gligen_pack.benchmark import unets

SD15 = {**unets.SD15, "model_channels": 32}

SHORT = {
    **SD15,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 0, 1, 0],
}
"""Two levels with five transformer blocks, for what needs no more of them."""


def sd15(seed: int = 0):
    """MODEL: SD 1.5's structure, all 16 transformer blocks, at a tenth of the width."""
    import comfy.supported_models

    return model_of(comfy.supported_models.SD15, SD15, seed)


def short(seed: int = 0):
    """MODEL: the same with two levels and five transformer blocks."""
    import comfy.supported_models

    return model_of(comfy.supported_models.SD15, SHORT, seed)


def model_of(kind, unet_config: dict, seed: int = 0):
    import comfy.model_management
    import comfy.model_patcher

    config = kind(unet_config)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    randomise(model.diffusion_model, seed)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, device, torch.device("cpu"))


def randomise(module: torch.nn.Module, seed: int, gate: float | None = None) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "alpha_" in name and gate is not None:
                p.fill_(gate)
            elif p.ndim > 1:
                scale = p[0].numel() ** -0.5
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
            else:
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                p.copy_(centre + torch.randn(p.shape, generator=generator) * 0.05)
    return module


def gligen_tensors(
    widths, token_width: int = 768, text_width: int = 768, gate: float = 0.8, seed=1
):
    """A text-box GLIGEN of random weights, by the authors' names."""
    from files import random_text_box_tensors

    return random_text_box_tensors(widths, token_width, text_width, seed, gate)


def gligen(tensors: dict, name: str = "random.safetensors", hints=()):
    """GLIGEN: these tensors as the pack's loader gives them."""
    from gligen_pack.gligen_ops.files.checkpoint import checkpoint_of
    from gligen_pack.nodes.seam import gligens

    return gligens.from_checkpoint(checkpoint_of(tensors, name, hints)).patcher


def schedule(model, tau=1.0, decay=0.0, strength=1.0, negative="null", curve=None, refresh_every=1):
    """A clone of the MODEL, as the schedule node gives it."""
    from gligen_pack.nodes.beta_schedule import GligenBetaSchedule

    inputs = (tau, decay, strength, negative, curve, refresh_every)
    return GligenBetaSchedule.execute(model, *inputs).result[0]


def entries(conditioning) -> list:
    """What a CONDITIONING grounds."""
    from gligen_pack.nodes.seam.conditioning import entries_of

    return entries_of(conditioning[0][1], (16, 16))


def conditioning(seed: int, width: int = 768, **extra):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 77, width, generator=generator), dict(extra)]]


def sample(model, positive, negative, steps=4, cfg=7.5, sampler="euler", scheduler="normal", seed=5,
           size=(16, 16), batch=1, denoise=1.0, latent=None, **kwargs):  # fmt: skip
    """Latents of the host's own KSampler."""
    import comfy.sample

    if latent is None:
        latent = torch.zeros(batch, 4, *size)
    noise = comfy.sample.prepare_noise(latent, seed)
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, scheduler, positive, negative, latent,
            denoise=denoise, disable_pbar=True, seed=seed, **kwargs,
        )  # fmt: skip


class Clip:
    """Stands in for CLIP where a test needs phrase features only: two fixed vectors for each phrase, as the
    host's has them, before its text projection and after it."""

    def __init__(self, width: int = 768, seed: int = 0):
        self.width, self.seed = width, seed

    def tokenize(self, text):
        return {"l": [[(ord(letter), 1.0) for letter in text]]}

    def encode_from_tokens(self, tokens, return_pooled=False):
        letters = map(ord, tokens) if isinstance(tokens, str) else [t for t, _ in tokens["l"][0]]
        phrase = self.seed + sum(letters)
        generator = torch.Generator().manual_seed(phrase)
        unprojected, projected = torch.randn(2, 1, self.width, generator=generator)
        if not return_pooled:
            return None
        return None, unprojected if return_pooled == "unprojected" else projected
