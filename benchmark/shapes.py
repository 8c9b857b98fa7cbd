"""Stable Diffusion's shapes with random weights, in the host's classes and in diffusers'."""

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch

from .unets import SD15, SDXL

SHAPES = {
    "sd15": (comfy.supported_models.SD15, SD15),
    "sdxl": (comfy.supported_models.SDXL, SDXL),
}
GATE = 0.5


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that keep activations of about one size, as trained ones do."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "alpha_" in name:
                p.fill_(GATE)
            elif p.ndim > 1:
                values = torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5
                p.copy_(values)
            else:
                p.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return module


def host_model(shape: str, dtype: torch.dtype):
    """MODEL"""
    kind, config = SHAPES[shape]
    supported = kind(dict(config))
    supported.set_inference_dtype(dtype, None)
    model = supported.get_model({})
    randomise(model.diffusion_model)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.CoreModelPatcher(model, device, torch.device("cpu"))


def diffusers_unet(dtype: torch.dtype, device: torch.device):
    """diffusers' UNet of SD 1.5 with its gated layers."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(cross_attention_dim=768, attention_type="gated")
    return randomise(unet).to(device, dtype).eval().requires_grad_(False)
