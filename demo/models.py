"""The demo model: the host's own SD 1.x classes at small widths, here as they are trained.

`nodes/demo_model.py` makes the same from the trained weights inside ComfyUI.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

CONTEXT = 64
UNET = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 2],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 1],
    "context_dim": CONTEXT,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "legacy": False,
    "num_heads": 4,
    "num_head_channels": -1,
}
TEXT = {
    "hidden_size": CONTEXT,
    "intermediate_size": 4 * CONTEXT,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
VISION_FILE = Path(__file__).with_name("vision.json")  # as a file, which any host reads
VISION = json.loads(VISION_FILE.read_text())
VAE = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 128,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
LATENT_SCALE = 0.18215  # of the host's SD 1.x latent format
EMBEDDING = "text_model.embeddings.token_embedding.weight"
WORDS = 49408
"""Rows of the host's embedding, of which a world's words use a few dozen."""


def words_alone(tensors: dict[str, Tensor], vocabulary: list[int]) -> dict[str, Tensor]:
    """A text encoder's tensors with the embedding rows of these words alone."""
    return {**tensors, EMBEDDING: tensors[EMBEDDING][vocabulary]}


def all_words(tensors: dict[str, Tensor], vocabulary: list[int]) -> dict[str, Tensor]:
    """The same with rows for all words again. Any other word reads as the mean of these."""
    rows = tensors[EMBEDDING]
    table = rows.mean(0).repeat(WORDS, 1)
    table[vocabulary] = rows
    return {**tensors, EMBEDDING: table}


def reset(module: nn.Module) -> nn.Module:
    """PyTorch's own initialisation, which the host's layers skip."""
    for m in module.modules():
        for kind in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm):
            if isinstance(m, kind):
                kind.reset_parameters(m)
        if isinstance(m, nn.Embedding):
            nn.init.normal_(m.weight, std=0.02)
    return module


def narrow(module: nn.Module) -> nn.Module:
    """The host's 32 norm groups are meant for 320 channels: here groups of 8 channels."""
    for m in module.modules():
        if isinstance(m, nn.GroupNorm):
            m.num_groups = m.num_channels // 8
    return module


def unet(config: dict = UNET) -> nn.Module:
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
    from comfy.ops import disable_weight_init

    model = narrow(reset(UNetModel(**config, dtype=torch.float32, operations=disable_weight_init)))
    for m in model.modules():  # each residual branch starts at zero, as in SD
        if isinstance(m, ResBlock):
            nn.init.zeros_(m.out_layers[-1].weight)
            nn.init.zeros_(m.out_layers[-1].bias)
    nn.init.zeros_(model.out[-1].weight)
    nn.init.zeros_(model.out[-1].bias)
    return model.to(memory_format=torch.channels_last)


def text_encoder() -> nn.Module:
    import comfy.clip_model
    from comfy.ops import disable_weight_init

    model = reset(comfy.clip_model.CLIPTextModel(TEXT, torch.float32, "cpu", disable_weight_init))
    nn.init.normal_(model.text_model.embeddings.position_embedding.weight, std=0.01)
    return trainable(model)


def vision_encoder() -> nn.Module:
    import comfy.clip_model
    from comfy.ops import disable_weight_init

    model = comfy.clip_model.CLIPVisionModelProjection(
        VISION, torch.float32, "cpu", disable_weight_init
    )
    nn.init.normal_(reset(model).vision_model.embeddings.class_embedding, std=0.02)
    return trainable(model)


def trainable(clip: nn.Module) -> nn.Module:
    """The host's CLIP layers add in place, which autograd cannot follow."""
    import comfy.clip_model

    class Layer(comfy.clip_model.CLIPLayer):
        def forward(self, x, mask=None, optimized_attention=None):
            x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
            return x + self.mlp(self.layer_norm2(x))

    for module in clip.modules():
        if type(module) is comfy.clip_model.CLIPLayer:
            module.__class__ = Layer
    return clip


def autoencoder(config: dict = VAE) -> nn.Module:
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.model import (
        AttnBlock,
        Downsample,
        ResnetBlock,
        Upsample,
    )

    model = narrow(reset(AutoencoderKL(**config)))
    for m in model.modules():  # at first only a linear way through, which learns fast
        if isinstance(m, ResnetBlock):
            nn.init.zeros_(m.conv2.weight)
        if isinstance(m, AttnBlock):
            nn.init.zeros_(m.proj_out.weight)
        if isinstance(m, Downsample | Upsample):
            nn.init.dirac_(m.conv.weight)
    return model.to(memory_format=torch.channels_last)
