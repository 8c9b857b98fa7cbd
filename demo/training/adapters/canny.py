"""Canny maps: the whole picture by its edges."""

import torch
from torch import Tensor

from ....gligen_ops.entities import SpatialMap
from ....gligen_ops.layers.first_conv import Downsampler
from ....gligen_ops.learning.training import widened
from ....gligen_ops.tokenizers.maps import MapTokenizer
from ... import world
from .. import eye
from .adapter import WIDTH, Adapter, Example

TOKENS = 16
HIDDEN = 256


class Canny(Adapter):
    name, kind, seed, steps = "canny", "canny map", 10, 500

    def new_tokenizer(self):
        return MapTokenizer(WIDTH, WIDTH, TOKENS, hidden=HIDDEN)

    def first_conv(self, base):
        return widened(base, Downsampler(1))

    def prepare(self, text):
        super().prepare(text)
        self.maps: dict[int, Tensor] = {}

    def example(self, index, rng):
        if index not in self.maps:
            self.maps[index] = eye.edges(world.render(self.scenes[index])) > 0
        entity = SpatialMap(self.maps[index].float() * 2 - 1)
        return Example([entity], torch.zeros(TOKENS, 4), entity)
