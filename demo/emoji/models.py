"""The demo's models, of which the UNet and the autoencoder are larger for this world."""

from torch import nn

from .. import models

UNET = {
    **models.UNET,
    "num_res_blocks": [2, 3],
    "transformer_depth": [0, 0, 0, 1, 1],
    "transformer_depth_output": [0, 0, 0, 0, 1, 1, 1],
}
VAE = {**models.VAE, "ddconfig": {**models.VAE["ddconfig"], "ch_mult": [1, 2, 2, 2]}}


def unet() -> nn.Module:
    return models.unet(UNET)


def autoencoder() -> nn.Module:
    return models.autoencoder(VAE)
