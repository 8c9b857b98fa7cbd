"""Grounding tokens of spatial maps: GLIGEN (arXiv 2301.07093), section 3.1, spatially-aligned
conditions.

    h^e = MLP(ConvNeXt(e) + position)

for a map e of the whole image: edges, depth, normals or classes. One token a place of the 14 × 14
grid of features, each with a learned embedding of its position.
Original: `PositionNet` in ldm/modules/diffusionmodules/{hed,canny,depth,normal,sem}_grounding_net.py of
gligen/GLIGEN.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from ..entities import SpatialMap
from ..kinds import OFFICIAL, Kind, downsampler_of, first_conv_with
from ..layers.first_conv import Downsampler, Edges
from .convnext import ConvNeXt
from .mlp import HIDDEN, mlp_sizes, token_mlp
from .slots import or_null
from .tokenizer import Tokenizer

STRIDE = 32  # of ConvNeXt: pixels a feature, in each direction
TOKENS = 14 * 14
CLASSES = 152
SIGNATURE = {"position_net.pos_embedding": None}
EDGES = SIGNATURE | first_conv_with(Edges.channels)
GREY, COLOURED = (SIGNATURE | downsampler_of(inputs) for inputs in (1, 3))
ONE_HOT = {"position_net.in_conv.weight": None}


def maps(inputs: int, hidden: int = 4, mode: str = "bicubic") -> Callable[..., Downsampler]:
    return partial(Downsampler, inputs, hidden, mode)


class MapTokenizer(Tokenizer):
    """Makes tokens of the places of a map, on a square grid.

    feature_width: F of ConvNeXt's features (768 in ConvNeXt-Tiny). token_width: D of the grounding tokens.
    tokens: G, a square, which decides the resolution at which the map is read (196: 448). hidden: of the MLP.
    """

    kinds = (
        Kind("hed map", OFFICIAL + "generation-hed", EDGES, Edges),
        Kind("canny map", OFFICIAL + "generation-canny", GREY, maps(1)),
        Kind("depth map", OFFICIAL + "generation-depth", GREY, maps(1)),
        Kind("normal map", OFFICIAL + "generation-normal", COLOURED, maps(3)),
    )
    sizes = {"pos_embedding": (1, "tokens", "feature_width")} | mlp_sizes("linears")
    slots = 1
    channels = 3

    def __init__(
        self,
        feature_width: int,
        token_width: int,
        tokens: int = TOKENS,
        operations=nn,
        hidden: int = HIDDEN,
    ):
        super().__init__()
        rows = math.isqrt(tokens)
        tokens = rows * rows
        self.slot_of_token = [0] * tokens
        self.resolution = STRIDE * rows
        self.side = 2 ** math.ceil(math.log2(self.resolution))  # 512 in the authors' models
        # Its layers are torch's, not of `operations`: it computes where and in what its weights are.
        self.convnext_tiny_backbone = ConvNeXt(feature_width)
        self.pos_embedding = nn.Parameter(torch.zeros(1, tokens, feature_width))
        self.linears = token_mlp(feature_width, token_width, operations, hidden)
        self.null_feature = nn.Parameter(torch.zeros(feature_width))

    def inputs(self, entities: list[SpatialMap]) -> tuple[Tensor | None, Tensor]:
        """What `forward` takes, for at most one map; none: the null grounding."""
        if not entities:
            return None, torch.zeros(1, 1)
        picture = entities[0].picture.float().cpu()  # [C, H, W]; C = 1 is grey
        return picture.expand(self.channels, -1, -1)[None], torch.ones(1, 1)

    def forward(self, maps: Tensor | None, mask: Tensor) -> Tensor:
        """maps: [B, 3, H, W] in -1..1, or None where no example has one; mask: [B, 1], 1 where an
        example has a map, else 0. Returns tokens [B, G, D], row by row.
        """
        position = self.pos_embedding.to(mask)
        if maps is None:
            return self.linears(self.null_feature.to(mask) + position).expand(len(mask), -1, -1)
        return self.linears(or_null(self.features(maps), mask, self.null_feature) + position)

    def features(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] → [B, G, F]. A map of another aspect is squeezed into the square."""
        maps = nn.functional.interpolate(maps, (self.resolution, self.resolution))
        pixels = self.pixels(maps).to(self.convnext_tiny_backbone.downsample_layers[0][0].weight)
        return rearrange(self.convnext_tiny_backbone(pixels), "b f h w -> b (h w) f").to(maps)

    def pixels(self, maps: Tensor) -> Tensor:
        return maps


class SemanticMapTokenizer(MapTokenizer):
    """Makes tokens of one-hot maps [B, 152, H, W] of the classes of ADE20K, which a convolution makes
    pixels of."""

    kinds = (
        Kind("semantic map", OFFICIAL + "generation-sem", ONE_HOT, maps(CLASSES, 16, "nearest")),
    )
    channels = CLASSES

    def __init__(self, *sizes: int, operations=nn, **more_sizes: int):
        super().__init__(*sizes, operations=operations, **more_sizes)
        self.in_conv = operations.Conv2d(CLASSES, 3, 3, padding=1)

    def pixels(self, maps: Tensor) -> Tensor:
        return self.in_conv(maps)
