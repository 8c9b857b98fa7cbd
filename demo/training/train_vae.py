"""Stage 1: the autoencoder, 128×128 pictures to 4×16×16 latents and back."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...gligen_ops.learning.fit import fit
from .. import models, world
from .stages import RUN, load_weights, save_weights

BATCH = 8
KL = 1e-4
CROP = 64


def pictures(seed, count: int) -> torch.Tensor:
    """[count, 3, 128, 128] in -1..1."""
    rng = np.random.default_rng(seed)
    scenes = [world.Scene.random(rng, world.pairs(), figures=0.25) for _ in range(count)]
    stack = np.stack([world.render(s) for s in scenes])
    return torch.from_numpy(stack).movedim(-1, 1).contiguous() * 2 - 1


def crops(x: torch.Tensor) -> torch.Tensor:
    """A random 64×64 window of each picture: four times as many pictures in the same time."""
    corners = torch.randint(x.shape[-1] - CROP, (len(x), 2)).tolist()
    return torch.stack(
        [p[:, i : i + CROP, j : j + CROP] for p, (i, j) in zip(x, corners, strict=True)]
    )


def encode(vae: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log variance of the latents, each [B, 4, 16, 16]."""
    return vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)


def decode(vae: nn.Module, z: torch.Tensor) -> torch.Tensor:
    return vae.decoder(vae.post_quant_conv(z))


def train(steps: int) -> None:
    torch.manual_seed(0)
    vae = models.autoencoder()

    def loss(step: int) -> torch.Tensor:
        x = crops(pictures((1, step), 2 * BATCH)) if step % 4 else pictures((1, step), BATCH)
        mean, log_variance = encode(vae, x)
        log_variance = log_variance.clamp(-12, 4)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        y = decode(vae, z)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return 0.5 * F.l1_loss(y, x) + 2 * F.mse_loss(y, x) + KL * divergence

    modules = nn.ModuleDict({"vae": vae})
    groups = [{"params": list(vae.parameters()), "lr": 3e-3}]
    fit(RUN / "vae.pt", modules, groups, loss, steps, ema=0.99)
    whiten(vae, pictures(2, 256))
    save_weights("vae", vae.state_dict())


def train_decoder(steps: int) -> None:
    """The decoder alone, for the latents as they are, with the slight noise that samples have."""
    torch.manual_seed(6)
    vae = trained()
    decoder = nn.ModuleDict({"decoder": vae.decoder, "post": vae.post_quant_conv})
    decoder.train().requires_grad_(True)

    def loss(step: int) -> torch.Tensor:
        x = crops(pictures((7, step), 2 * BATCH)) if step % 4 else pictures((7, step), BATCH)
        with torch.no_grad():
            z = encode(vae, x)[0]
        noise = torch.rand(len(z), 1, 1, 1) * 0.15 / models.LATENT_SCALE
        y = decode(vae, z + noise * torch.randn_like(z))
        return F.l1_loss(y, x) + F.mse_loss(y, x)

    groups = [{"params": list(decoder.parameters()), "lr": 2e-3}]
    fit(RUN / "decoder.pt", decoder, groups, loss, steps, ema=0.99)
    save_weights("vae", vae.state_dict())


@torch.no_grad()
def whiten(vae: nn.Module, x: torch.Tensor) -> None:
    """Fold a scale and shift into the convolutions on both sides of the latents, so that after the
    host's latent scale each channel has mean 0 and variance 1."""
    mean = torch.cat([encode(vae, chunk)[0] for chunk in x.split(16)])
    shift = mean.mean((0, 2, 3))
    scale = 1 / (models.LATENT_SCALE * mean.std((0, 2, 3)))
    inner, outer = vae.quant_conv, vae.post_quant_conv
    outer.bias += outer.weight[:, :, 0, 0] @ shift
    outer.weight /= scale[None, :, None, None]
    inner.weight[:4] *= scale[:, None, None, None]
    inner.bias[:4] = (inner.bias[:4] - shift) * scale
    inner.bias[4:] += 2 * scale.log()


def trained() -> nn.Module:
    vae = models.autoencoder()
    vae.load_state_dict(load_weights("vae"))
    return vae.eval().requires_grad_(False)
