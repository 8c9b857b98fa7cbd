"""Text boxes: things in their boxes, by their phrases."""

import torch

from ....gligen_ops.entities import BoxEntity
from ....gligen_ops.places import Box
from ....gligen_ops.tokenizers.box import BoxTokenizer
from ... import world
from .adapter import KEEP, WIDTH, Adapter, Example, features_of

JITTER = 0.2  # noise on a phrase's features, in their spread, for pairs that are never seen here


class Boxes(Adapter):
    name, kind, seed, steps = "boxes", "text box", 5, 8000

    def new_tokenizer(self):
        return BoxTokenizer(WIDTH, WIDTH)

    def prepare(self, text):
        super().prepare(text)
        self.phrases = Phrases(text, self.scenes)

    def example(self, index, rng):
        things = [t for t in self.scenes[index].things if rng.random() < KEEP]
        entities = [self.phrases.entity(thing, rng) for thing in things]
        return Example(entities, self.regions([e.box for e in entities]))


class Phrases:
    """Phrases of things with their features, with articles and without, and some noise on them."""

    def __init__(self, text, scenes: list[world.Scene]):
        phrases = sorted({p for s in scenes for t in s.things for p in (t.phrase, t.name)})
        self.features = features_of(text, phrases)
        self.spread = torch.stack(list(self.features.values())).std(0) * JITTER

    def entity(self, thing: world.Thing, rng, image=None) -> BoxEntity:
        phrase = thing.name if rng.random() < world.BARE else thing.phrase
        feature = self.features[phrase] + self.spread * torch.randn(WIDTH)
        return BoxEntity(Box(*thing.box), phrase, feature, image)
