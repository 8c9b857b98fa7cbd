"""The demo model as MODEL, CLIP, VAE and GLIGEN: the host's own SD 1.x classes at small widths."""

import json
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import torch
from comfy_api.latest import io
from safetensors import safe_open

from . import seat

WEIGHTS = Path(__file__).parent.parent / "demo" / "weights"
EMBEDDING = "text_model.embeddings.token_embedding.weight"
CLIP_TOKENS = 49408


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
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The base model."),
                io.Clip.Output(tooltip="Its text encoder; it knows the words of its little world."),
                io.Vae.Output(tooltip="Its image decoder and encoder."),
                io.Gligen.Output(tooltip="Its GLIGEN model, for text boxes."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        gligen = seat.load(str(WEIGHTS / "gligen.safetensors"), "the demo model's gligen.safetensors")
        return io.NodeOutput(unet(), text_encoder(), autoencoder(), gligen)


def read(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors of demo/weights/NAME.safetensors in float32, and its metadata."""
    with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
        metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
        return {k: file.get_tensor(k).float() for k in file.keys()}, metadata  # noqa: SIM118


def unet():
    """MODEL: a UNetModel of the SD 1.5 kind."""
    tensors, metadata = read("unet")
    config = comfy.supported_models.SD15(metadata["config"])
    config.unet_config.update(metadata["config"])  # the demo's own number of heads
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(tensors)
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    model.load_model_weights(tensors, "", assign=patcher.is_dynamic())
    return patcher


def text_encoder():
    """CLIP: the SD 1.x text encoder, narrow, with the host's own tokenizer. The file has the embeddings
    of the words of the demo's world; all others get their mean."""
    tensors, metadata = read("text")
    rows = tensors.pop(EMBEDDING)
    table = rows.mean(0).repeat(CLIP_TOKENS, 1)
    table[metadata["vocabulary"]] = rows
    tensors = {**tensors, EMBEDDING: table}
    target = comfy.supported_models_base.ClipTarget(
        comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    )
    return comfy.sd.CLIP(
        target,
        tokenizer_data={},
        state_dict={f"clip_l.transformer.{k}": v for k, v in tensors.items()},
        model_options={"clip_l_model_config": metadata["config"]},
    )


def autoencoder():
    """VAE: the SD 1.x autoencoder, narrow."""
    tensors, metadata = read("vae")
    return comfy.sd.VAE(sd=tensors, config={"params": metadata["config"]})
