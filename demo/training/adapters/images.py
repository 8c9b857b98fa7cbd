"""Text and image boxes: things by a phrase, by a reference picture or by both; and the colour of all
things by a picture's style."""

import numpy as np
import torch
from torch.nn.functional import mse_loss

from ....gligen_ops.entities import BoxEntity
from ....gligen_ops.learning.fit import fit
from ....gligen_ops.places import Box
from ....gligen_ops.tokenizers.text_image import TextImageTokenizer
from ... import world
from .. import data, train_vae, train_vision
from ..stages import RUN
from .adapter import KEEP, WIDTH, Adapter, Example, no_held_out
from .boxes import Phrases

STYLED = 3000  # scenes whose things are all of one colour
STYLE = Box(0.0, 1.0, 0.0, 1.0)  # as the authors write it
WHOLE = Box(0.0, 0.0, 1.0, 1.0)
HIDDEN = 384
LESSONS = 2  # of the tokenizer, for each step of the training after them
REFERENCES = 24  # pictures of each colour and shape
JITTER = 0.15
WORDLESS = 0.4  # share of scenes without a caption
USES = ("image", "text and image", "text")
SHARES = (0.5, 0.3, 0.2)


class Images(Adapter):
    name, kind, seed, steps = "images", "text and image box", 14, 3000
    start = "boxes"

    def new_tokenizer(self):
        return TextImageTokenizer(WIDTH, WIDTH, hidden=HIDDEN)

    def prepare(self, text):
        super().prepare(text)
        rng = np.random.default_rng(15)
        styled = [one_colour(rng) for _ in range(min(STYLED, data.COUNT))]
        latents = data.latents(train_vae.trained(), styled, "styled")
        self.first_styled = len(self.scenes)
        self.scenes = [*self.scenes, *styled]
        self.latents = torch.cat([self.latents, latents])
        self.phrases = Phrases(text, self.scenes)
        self.pictures = train_vision.references(REFERENCES, seed=16)
        self.spread = torch.cat(list(self.pictures.values())).std(0) * JITTER

    def begin(self, tokenizer, steps):
        """The tokens of a phrase, and those of a picture of the same thing, begin as those that the text
        boxes have for the phrase; what is not given begins as their empty slot. These MLPs are narrower,
        so they are taught."""
        own = self.tokenizer
        things = [t for scene in self.scenes if no_held_out(scene) for t in scene.things]

        def loss(step: int) -> torch.Tensor:
            rng = np.random.default_rng((self.seed, step))
            count = rng.integers(own.slots // 2, own.slots + 1)
            picked = [things[i] for i in rng.integers(len(things), size=count)]
            entities = [self.entity(thing, rng) for thing in picked]
            boxes, mask, text_mask, image_mask, text, image = own.inputs(entities)
            named = [
                BoxEntity(Box(*t.box), t.phrase, self.phrases.features[t.phrase]) for t in picked
            ]
            features = tokenizer.inputs(named)[-1]
            with torch.no_grad():
                taught = [tokenizer(boxes, given, features) for given in (text_mask, image_mask)]
            tokens = own(boxes, mask, text_mask, image_mask, text, image)
            return mse_loss(tokens, torch.cat(taught, dim=1))

        groups = [{"params": list(own.parameters()), "lr": 2e-3}]
        fit(RUN / f"{self.name}_tokens.pt", own, groups, loss, LESSONS * steps)

    def example(self, index, rng):
        things = self.scenes[index].things
        if index >= self.first_styled:
            shown = world.SHAPES[rng.integers(len(world.SHAPES))]
            image = self.picture((things[0].colour, shown), rng)
            return Example([BoxEntity(STYLE, "style", image=image)], self.regions([WHOLE]))
        entities = [self.entity(t, rng) for t in things if rng.random() < KEEP]
        return Example(entities, self.regions([e.box for e in entities]))

    def caption(self, index, rng):
        """At times none, for pictures that say it all; that of a styled scene leaves the colour to the
        style."""
        if index < self.first_styled and rng.random() < WORDLESS:
            return ""
        return world.caption(self.scenes[index], rng, coloured=index < self.first_styled)

    def entity(self, thing: world.Thing, rng) -> BoxEntity:
        use = rng.choice(USES, p=SHARES)
        if use == "text":
            return self.phrases.entity(thing, rng)
        image = self.picture((thing.colour, thing.shape), rng)
        if use == "image":
            return BoxEntity(Box(*thing.box), image=image)
        return self.phrases.entity(thing, rng, image)

    def picture(self, label: tuple[str, str], rng) -> torch.Tensor:
        features = self.pictures[label]
        return features[rng.integers(len(features))] + self.spread * torch.randn(WIDTH)


def one_colour(rng) -> world.Scene:
    """Two or three things of one colour."""
    colour = list(world.COLOURS)[rng.integers(len(world.COLOURS))]
    pairs = [pair for pair in world.pairs(held_out=False) if pair[0] == colour]
    return world.Scene.random(rng, pairs, count=int(rng.integers(2, 4)))
