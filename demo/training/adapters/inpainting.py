"""Inpainting: things in their boxes, painted into a picture that is known around them."""

from ....gligen_ops.entities import Inpainting as Known
from ....gligen_ops.layers.first_conv import KnownRegion
from ....gligen_ops.learning.training import widened
from ....gligen_ops.masks import boxes_mask
from .adapter import Example
from .boxes import Boxes


class Inpainting(Boxes):
    name, kind, seed, steps = "inpainting", "text box inpainting", 11, 600
    start = "boxes"

    def first_conv(self, base):
        return widened(base, KnownRegion())

    def example(self, index, rng):
        things = self.scenes[index].things
        painted = [t for t in things if rng.random() < 0.7] or [things[rng.integers(len(things))]]
        entities = [self.phrases.entity(thing, rng) for thing in painted]
        boxes = [e.box for e in entities]
        z = self.latents[index][None]
        known = 1 - boxes_mask(boxes, z.shape[-2:])[None]
        return Example(entities, self.regions(boxes), Known(z, known))
