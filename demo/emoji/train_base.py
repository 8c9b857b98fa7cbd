"""The base model, UNet and text encoder, on captioned scenes with no grounding input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from ...gligen_ops.learning.training import DROP, Diffusion
from ..models import all_words, text_encoder, words_alone
from . import data, first_stage, models
from .device import DEVICE, graphed, half, number
from .stages import RUN, load_weights, save_weights

BATCH = {"cuda": 256, "cpu": 64}[DEVICE.type]
LAYOUT = 0.4  # share of examples with so much noise that the layout is still open
FROM = 400  # time step


class Loss(nn.Module):
    """The denoising objective on random captioned scenes."""

    def __init__(self, unet: nn.Module, text: nn.Module):
        super().__init__()
        self.unet, self.text = unet, text
        scenes = data.scenes("mixed")
        self.captions, self.latents = scenes.caption, first_stage.latents(scenes)
        self.null = data.Tokens()([""]).to(DEVICE)
        self.diffusion = Diffusion()
        self.diffusion.alpha_bar = self.diffusion.alpha_bar.to(DEVICE)

    def forward(self, _: Tensor) -> Tensor:
        picked = torch.randint(len(self.latents), (BATCH,), device=DEVICE)
        which = torch.randint(data.CAPTIONS, (BATCH,), device=DEVICE)
        dropped = torch.rand(BATCH, 1, device=DEVICE) < DROP
        tokens = torch.where(dropped, self.null, self.captions[picked, which])
        z = self.latents[picked]
        noise, t = torch.randn_like(z), time_steps(BATCH, LAYOUT, FROM)
        with half():
            context = self.text(tokens)[0]
            noisy = self.diffusion.noisy(z, noise, t)
            predicted = self.unet(noisy, t, context=context, transformer_options={})
        return F.mse_loss(predicted.float(), noise)


def time_steps(count: int, share: float, low: int) -> Tensor:
    """Integers in 0..999, [count]; a share of them from `low` on."""
    t = torch.rand(count, device=DEVICE)
    high = low + (Diffusion.steps - low) * t
    return torch.where(torch.rand(count, device=DEVICE) < share, high, Diffusion.steps * t).long()


def train(steps: int) -> None:
    torch.manual_seed(1)
    unet, text = models.unet().to(DEVICE), text_encoder().to(DEVICE)
    loss = graphed(Loss(unet, text), number(0))
    modules = nn.ModuleDict({"unet": unet, "text": text})
    # One embedding of 49408 rows, of which this world's words use a hundred.
    table = text.text_model.embeddings.token_embedding.weight
    rest = [p for p in modules.parameters() if p is not table and p.requires_grad]
    groups = [{"params": rest, "lr": 1.5e-3}, {"params": [table], "lr": 1.5e-3, "weight_decay": 0}]
    fit(RUN / "base.pt", modules, groups, lambda step: loss(number(step)), steps)
    save_weights("unet", unet.state_dict())
    save_text(text, data.vocabulary(data.Tokens()))


def save_text(text: nn.Module, vocabulary: list[int]) -> None:
    """Only the embedding rows of this world's words; any other word reads as the mean of those."""
    tensors = words_alone(text.state_dict(), vocabulary)
    tensors.pop("text_projection.weight", None)
    save_weights("text", tensors, vocabulary=vocabulary)


def trained() -> tuple[nn.Module, nn.Module]:
    """UNet and text encoder as they are in the files, frozen."""
    unet, text = models.unet(), text_encoder()
    unet.load_state_dict(load_weights("unet", "cpu"))
    tensors = all_words(load_weights("text", "cpu"), data.vocabulary(data.Tokens()))
    text.load_state_dict(tensors, strict=False)
    return tuple(model.to(DEVICE).eval().requires_grad_(False) for model in (unet, text))


@torch.no_grad()
def features_of(text: nn.Module, phrases: list[str]) -> Tensor:
    """The text encoder's pooled feature of each phrase, [P, F]."""
    return text(data.Tokens()(phrases).to(DEVICE))[3]
