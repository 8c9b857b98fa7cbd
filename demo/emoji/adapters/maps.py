"""Maps of the whole picture: edges, depth, normals, classes."""

import torch
from torch import Tensor, nn

from ....gligen_ops.tokenizers.maps import CLASSES, MapTokenizer, SemanticMapTokenizer
from .. import maps
from ..device import DEVICE
from .adapter import HIDDEN, WIDTH, Adapter, Examples

TOKENS = 16
FEATURES = 48  # of the convolutional network that reads the map


class Map(Adapter):
    """A kind of map. `maps` makes them of scenes."""

    batch = 96

    def new_tokenizer(self) -> nn.Module:
        return MapTokenizer(FEATURES, WIDTH, TOKENS, hidden=HIDDEN)

    def maps(self, at: Tensor) -> Tensor:
        """[B, C, 128, 128], as a SpatialMap holds them."""
        raise NotImplementedError

    def examples(self, at):
        pictures = self.maps(at)
        inputs = (
            pictures.expand(-1, self.tokenizer.channels, -1, -1),
            torch.ones_like(at)[:, None].float(),
        )
        size = tuple(self.latents.shape[-2:])
        regions = torch.zeros(len(at), TOKENS, 4, device=DEVICE)
        return Examples(
            inputs, regions, self.captions(at), lambda conv: conv.downsample_net.of(pictures, size)
        )


class Hed(Map):
    name, kind, seed = "hed", "hed map", 20

    def maps(self, at):
        return maps.hed(self.scenes, at) * 2 - 1


class Canny(Map):
    name, kind, seed = "canny", "canny map", 10

    def prepare(self, text):
        super().prepare(text)
        self.edges = maps.canny(self.scenes.picture)

    def maps(self, at):
        return self.edges[at].float() * 2 - 1


class Depth(Map):
    name, kind, seed = "depth", "depth map", 21

    def maps(self, at):
        return maps.depth(self.scenes, at) * 2 - 1


class Normal(Map):
    name, kind, seed = "normal", "normal map", 22

    def maps(self, at):
        return maps.normal(self.scenes, at) * 2 - 1


class Semantic(Map):
    name, kind, seed = "semantic", "semantic map", 23
    batch = 48

    def new_tokenizer(self):
        return SemanticMapTokenizer(FEATURES, WIDTH, TOKENS, hidden=HIDDEN)

    def maps(self, at):
        every = torch.arange(CLASSES, device=DEVICE).view(-1, 1, 1)
        return (maps.classes(self.scenes, at)[:, None] == every).float()
