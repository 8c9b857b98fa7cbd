"""The first convolution of a GLIGEN that also looks at something laid out as the image is.

    x' = Conv([z_t, extra])

in place of the frozen UNet's own Conv(z_t). `extra` is a spatial map made small, or what is known of an
image that is inpainted: GLIGEN (arXiv 2301.07093), section 3.1 and its experiments on inpainting.
Originals: `first_conv_type` and `inpaint_mode` of `UNetModel` in ldm/modules/diffusionmodules/
openaimodel.py, and {hed,canny,depth,normal,sem}_grounding_downsampler.py, of gligen/GLIGEN.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..entities import Inpainting, SpatialMap
from ..fitting import Size

LATENT = 4


class Edges(nn.Module):
    """A soft edge map as it is: one channel, no weights."""

    channels = 1

    def __init__(self, operations=nn):
        super().__init__()

    def forward(self, entity: SpatialMap, size: Size) -> Tensor:
        return self.of(entity.picture[None], size)

    def of(self, maps: Tensor, size: Size) -> Tensor:
        """maps: [B, C, H, W]. Returns [B, 1, h, w]."""
        return interpolate(maps[:, :1], size, mode="bicubic")


class Downsampler(nn.Module):
    """A map at four times the latent's size, made small by two convolutions. inputs: the channels of
    the map that it looks at, 1 for grey; hidden: of the first convolution; mode: of the resizing."""

    channels = 8

    def __init__(self, inputs: int, hidden: int = 4, mode: str = "bicubic", operations=nn):
        super().__init__()
        self.mode = mode
        self.layers = nn.Sequential(
            operations.Conv2d(inputs, hidden, 4, stride=2, padding=1),
            nn.SiLU(),
            operations.Conv2d(hidden, self.channels, 4, stride=2, padding=1),
        )

    def forward(self, entity: SpatialMap, size: Size) -> Tensor:
        return self.of(entity.picture[None], size)

    def of(self, maps: Tensor, size: Size) -> Tensor:
        """maps: [B, C, H, W]. Returns [B, 8, h, w]."""
        # The authors' maps are 256 × 256, for the latent of 64 × 64 that they train on.
        maps = maps[:, : self.layers[0].in_channels]
        return self.layers(interpolate(maps, (4 * size[0], 4 * size[1]), mode=self.mode))


class KnownRegion(nn.Module):
    """What stays of the image, and where."""

    channels = LATENT + 1

    def __init__(self, operations=nn):
        super().__init__()

    def forward(self, entity: Inpainting, size: Size) -> Tensor:
        return torch.cat([entity.known * entity.mask, entity.mask], dim=1)


class FirstConv(nn.Module):
    """A GLIGEN's first convolution. width: C of the UNet's first features (320 on SD). downsample_net: makes
    the extra channels."""

    def __init__(self, width: int, downsample_net: nn.Module, operations=nn):
        super().__init__()
        self.conv = operations.Conv2d(LATENT + downsample_net.channels, width, 3, padding=1)
        self.downsample_net = downsample_net

    def extra(self, entity: SpatialMap | Inpainting, size: Size) -> Tensor:
        """The extra channels [1, k, h, w] for a latent of size (h, w), which stay the same for a run.
        They are computed where, and in the dtype in which, the entity's tensors are. An Inpainting
        has to be of this size already."""
        return self.downsample_net(entity, size)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """x: noisy latent [B, 4, h, w]; extra: [B or 1, k, h, w]. Returns [B, C, h, w]."""
        extra = extra.to(x).expand(len(x), -1, -1, -1)
        return self.conv(torch.cat([x, extra], dim=1))
