"""The autoencoder, 128×128 pictures to 4×16×16 latents and back.

The latents are not learned but fixed: each patch of 8×8 pixels on the four main directions of such patches,
each direction with mean 0 and variance 1. That is smooth, which makes the diffusion easy, and there before
any training, so that the autoencoder and the base can be trained side by side. The decoder learns to paint
from them what the world looks like, the encoder to find them.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from ..models import LATENT_SCALE
from . import data, models
from .device import DEVICE, graphed, half, number
from .stages import RUN, WEIGHTS, load_weights, save_weights

BATCH = {"cuda": 64, "cpu": 4}[DEVICE.type]
NOISE = 0.15  # the most that a decoder's latents are off by while it learns
SAMPLE = 4000  # pictures that the directions are taken from


class Basis(NamedTuple):
    mean: Tensor  # [192]
    to_latent: Tensor  # [192, 4]

    def latents(self, picture: Tensor) -> Tensor:
        """uint8 [B, 128, 128, 3] → [B, 4, 16, 16], as the diffusion model sees them."""
        return ((patches(picture) - self.mean) @ self.to_latent).movedim(-1, 1).contiguous()


def patches(picture: Tensor) -> Tensor:
    """[B, 128, 128, 3] → [B, 16, 16, 192], in -1..1."""
    x = rearrange(picture, "b (h p) (w q) c -> b h w (p q c)", p=8, q=8)
    return x.float() / 127.5 - 1


def basis() -> Basis:
    """As in its file: what is trained on its latents fits no other."""
    if not (WEIGHTS / "basis.safetensors").exists():
        save_weights("basis", found_basis()._asdict(), dtype=torch.float32)
    return Basis(**load_weights("basis"))


def found_basis() -> Basis:
    x = patches(data.scenes("mixed").picture[:SAMPLE]).flatten(0, 2).double().cpu()
    variance, directions = torch.linalg.eigh(torch.cov(x.T))
    variance, directions = variance[-4:].flip(0), directions[:, -4:].flip(1)
    directions = directions * directions.sum(0).sign()
    return Basis(x.mean(0).float(), (directions / variance.sqrt()).float())


def latents(scenes: data.Scenes) -> Tensor:
    """[N, 4, 16, 16]"""
    directions = basis()
    return torch.cat([directions.latents(part) for part in scenes.picture.split(500)])


class Loss(nn.Module):
    """How well a decoder paints the world's pictures from their latents, and an encoder finds those."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae
        self.pictures, self.basis = data.scenes("mixed").picture, basis()

    def forward(self, _: Tensor) -> Tensor:
        picked = torch.randint(len(self.pictures), (BATCH,), device=DEVICE)
        picture = self.pictures[picked]
        x, z = data.pixels(picture), self.basis.latents(picture)
        noise = NOISE * torch.rand(BATCH, 1, 1, 1, device=DEVICE) * torch.randn_like(z)
        with half():
            y = self.vae.decoder(self.vae.post_quant_conv(z + noise))
            found = self.vae.quant_conv(self.vae.encoder(x))[:, :4]
        return painting_loss(y.float(), x) + F.mse_loss(found.float(), z)


def painting_loss(y: Tensor, x: Tensor) -> Tensor:
    """Colours and their steps from pixel to pixel, which are what looks sharp."""
    steps = sum(F.l1_loss(y.diff(dim=axis), x.diff(dim=axis)) for axis in (-1, -2))
    return F.l1_loss(y, x) + F.mse_loss(y, x) + steps


def train(steps: int) -> None:
    torch.manual_seed(0)
    vae = models.autoencoder().to(DEVICE)
    groups = [{"params": list(vae.parameters()), "lr": 2e-3}]
    loss = graphed(Loss(vae), number(0))
    fit(RUN / "vae.pt", vae, groups, lambda step: loss(number(step)), steps, ema=0.995)
    save_weights("vae", scaled(vae).state_dict())


@torch.no_grad()
def scaled(vae: nn.Module) -> nn.Module:
    """Latents as the host has them, which it multiplies with its scale; and no noise on them."""
    vae.post_quant_conv.weight *= LATENT_SCALE
    vae.quant_conv.weight[:4] /= LATENT_SCALE
    vae.quant_conv.bias[:4] /= LATENT_SCALE
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = -30
    return vae


def trained() -> nn.Module:
    vae = models.autoencoder().to(DEVICE)
    vae.load_state_dict(load_weights("vae"))
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def decoded(vae: nn.Module, z: Tensor) -> Tensor:
    """Latents as the diffusion model sees them → pictures [B, 128, 128, 3] in 0..1."""
    parts = [vae.decoder(vae.post_quant_conv(part / LATENT_SCALE)) for part in z.split(64)]
    return (torch.cat(parts).clamp(-1, 1) / 2 + 0.5).movedim(1, -1)
