"""The demo model as MODEL, CLIP, VAE, GLIGEN and CLIP_VISION: the host's own classes of SD 1.x at small
widths.

demo/models.py has the widths, demo/weights the weights.
"""

import json
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from comfy_api.latest import io
from safetensors import safe_open

from ..demo import models
from .seam import gligens

WEIGHTS = Path(__file__).parent.parent / "demo" / "weights"
PROJECTION = "text_projection.weight"
GLIGENS = {
    "text box": "boxes",
    "text and image box": "images",
    "keypoints": "keypoints",
    "canny map": "canny",
    "text box inpainting": "inpainting",
}
"""The file of each kind."""


class GligenDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenDemoModel",
            display_name="GLIGEN Demo Model",
            category="model/loaders",
            description="A tiny model that ships with the pack and draws coloured shapes at 128×128: "
            "red, yellow, green, cyan, blue or purple circles, squares, triangles, stars, crosses, "
            "rings and persons. For trying GLIGEN without a download.",
            search_aliases=["gligen", "demo", "example"],
            inputs=[
                io.Combo.Input(
                    "kind", options=list(GLIGENS), default="text box", optional=True,
                    tooltip="What its GLIGEN model is grounded by. The base model is the same for all.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The base model."),
                io.Clip.Output(tooltip="Its text encoder; it knows the words of its little world."),
                io.Vae.Output(tooltip="Its image decoder and encoder."),
                io.Gligen.Output(tooltip="Its GLIGEN model, of the kind chosen."),
                io.ClipVision.Output(tooltip="Its CLIP vision model, for reference pictures."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, kind="text box") -> io.NodeOutput:
        file = f"{GLIGENS[kind]}.safetensors"
        gligen = gligens.load(str(WEIGHTS / file), f"the demo model's {file}")
        return io.NodeOutput(unet(), text_encoder(), autoencoder(), gligen.patcher, clip_vision())


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of demo/weights/NAME.safetensors in float32, and its metadata."""
    with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
        tensors = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def unet():
    """MODEL: a UNetModel of the SD 1.5 kind."""
    tensors, _ = read("unet")
    config = comfy.supported_models.SD15(models.UNET)
    config.unet_config.update(models.UNET)  # SD15 has put its own number of heads in
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(tensors)
    models.narrow(model.diffusion_model)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    model.load_model_weights(tensors, "", assign=patcher.is_dynamic())
    return patcher


def text_encoder():
    """CLIP: the SD 1.x text encoder, narrow, with the host's own tokenizer. The file has the embeddings
    of the words of the demo's world; any other word reads as their mean."""
    tensors, metadata = read("text")
    tensors = models.all_words(tensors, json.loads(metadata["vocabulary"]))
    tensors[PROJECTION] = read("vision")[0][PROJECTION]
    return comfy.sd.CLIP(
        comfy.supported_models.SD15(models.UNET).clip_target(),
        state_dict={f"clip_l.transformer.{k}": v for k, v in tensors.items()},
        model_options={"clip_l_model_config": models.TEXT},
    )


def clip_vision():
    """CLIP_VISION: a small vision transformer."""
    tensors, _ = read("vision")
    del tensors[PROJECTION]
    vision = comfy.clip_vision.ClipVisionModel(str(models.VISION_FILE))
    vision.load_sd(tensors)
    return vision


def autoencoder():
    """VAE: the SD 1.x autoencoder, narrow."""
    tensors, _ = read("vae")
    vae = comfy.sd.VAE(sd=tensors, config={"params": models.VAE})
    models.narrow(vae.first_stage_model)
    return vae
