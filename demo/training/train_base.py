"""Stage 2: the base model, UNet and text encoder, on captioned scenes with no grounding input."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from ...gligen_ops.learning.training import DROP, Diffusion
from .. import models, world
from ..models import all_words, words_alone
from . import data, train_vae
from .stages import RUN, load_weights, save_weights

BATCH = 64


def train(steps: int) -> None:
    torch.manual_seed(1)
    scenes = data.scenes()
    latents = data.latents(train_vae.trained(), scenes)
    tokens = data.Tokens()
    unet, text = models.unet(), models.text_encoder()
    diffusion = Diffusion()

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((4, step))
        picked = rng.integers(len(scenes), size=BATCH)
        captions = ["" if rng.random() < DROP else world.caption(scenes[i], rng) for i in picked]
        z = latents[torch.from_numpy(picked)]
        noise = torch.randn_like(z)
        t = torch.from_numpy(rng.integers(diffusion.steps, size=BATCH))
        context = text(tokens(captions))[0]
        predicted = unet(diffusion.noisy(z, noise, t), t, context=context, transformer_options={})
        return F.mse_loss(predicted, noise)

    modules = nn.ModuleDict({"unet": unet, "text": text})
    # One embedding of 49408 rows, of which this world's words use a few dozen.
    table = text.text_model.embeddings.token_embedding.weight
    rest = [p for p in modules.parameters() if p is not table and p.requires_grad]
    groups = [{"params": rest, "lr": 1.5e-3}, {"params": [table], "lr": 1.5e-3, "weight_decay": 0}]
    fit(RUN / "base.pt", modules, groups, loss, steps)
    save_weights("unet", unet.state_dict())
    save_text(text, data.vocabulary(tokens))


def save_text(text: nn.Module, vocabulary: list[int]) -> None:
    """Only the embedding rows of this world's words; any other word reads as the mean of those."""
    tensors = words_alone(text.state_dict(), vocabulary)
    tensors.pop("text_projection.weight", None)
    save_weights("text", tensors, vocabulary=vocabulary)


def trained() -> tuple[nn.Module, nn.Module]:
    """UNet and text encoder as they are in the files."""
    unet, text = models.unet(), models.text_encoder()
    unet.load_state_dict(load_weights("unet"))
    tensors = all_words(load_weights("text"), data.vocabulary(data.Tokens()))
    text.load_state_dict(tensors, strict=False)
    return unet, text
