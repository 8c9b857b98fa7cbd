"""What each GLIGEN of the demo is measured by: what it is given, and how well a picture keeps to it.

Names as the repository is a package inside ComfyUI (see measure.py).
"""

import json
from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import permutations

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..demo import world
from ..demo.training import eye, joints
from ..gligen_ops.entities import PhraseBox, Pose
from ..gligen_ops.places import Box
from ..nodes.demo_model import GligenDemoModel
from ..nodes.encoders.phrases import ground_boxes
from ..nodes.encoders.pictures import CLIPS_OWN
from ..nodes.image_box import GligenImageBox
from ..nodes.inpaint import GligenInpaint
from ..nodes.keypoints import GligenKeypoints
from ..nodes.ksampler import GligenKSampler
from ..nodes.pictures import drawing
from ..nodes.spatial_map import GligenSpatialMap

SHOWN = 192  # pixels
MISSED = 1.0  # counted as the error of a person who is not there
STEPS, CFG, SAMPLER, SCHEDULER = 20, 4.0, "euler", "normal"
Figures = dict[str, list[float]]


class Demo:
    """The demo model with its GLIGEN of a kind, and a run of it through the pack's nodes."""

    def __init__(self, kind: str = "text box"):
        made = GligenDemoModel.execute(kind).result
        self.model, self.clip, self.vae, self.gligen, self.clip_vision = made
        self.negative = self.encode("")

    def encode(self, text: str):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    @torch.inference_mode()
    def sample(
        self, positive, tau: float, seed: int, latent=None, cfg: float = CFG, refresh_every: int = 1
    ) -> np.ndarray:
        """[128, 128, 3] in 0..1. latent: where to begin; None: from nothing."""
        latent = latent or {"samples": torch.zeros(1, 4, 16, 16)}
        (out,) = GligenKSampler.execute(
            self.model, seed, STEPS, cfg, SAMPLER, SCHEDULER, positive, self.negative, latent,
            1.0, tau, 0.0, 1.0, "null", refresh_every,
        ).result  # fmt: skip
        return self.vae.decode(out["samples"])[0].clamp(0, 1).numpy()


class Measure(ABC):
    """kind: of the GLIGEN. seed: of its scenes, none of which was trained on."""

    kind: str
    seed: int = 1000

    def scenes(self, count: int) -> list[world.Scene]:
        rng = np.random.default_rng(self.seed)
        return [world.Scene.random(rng, world.pairs()) for _ in range(count)]

    @abstractmethod
    def grounded(self, demo: Demo, scene: world.Scene) -> tuple:
        """The positive conditioning, and what else `Demo.sample` takes."""

    @abstractmethod
    def figures(self, demo: Demo, picture: np.ndarray, scene: world.Scene) -> Figures:
        """Values of each figure, whose mean over all scenes counts."""

    def given(self, scene: world.Scene) -> Image.Image:
        """What the demo was given, to be looked at."""
        return self.over(scene, world.render(replace(scene, things=())))

    def over(self, scene: world.Scene, picture: np.ndarray) -> Image.Image:
        """A picture with what it was to keep to."""
        return outlined(shown(picture), scene.things)


class Boxes(Measure):
    kind = "text box"

    def grounded(self, demo, scene):
        return with_boxes(demo, scene)

    def figures(self, demo, picture, scene):
        return placed(picture, scene.things)


class Images(Measure):
    """Boxes with reference pictures alone: no phrase, no prompt."""

    kind = "text and image box"
    seed = 1001

    def grounded(self, demo, scene):
        positive = demo.encode("")
        for thing in scene.things:
            image = demo.clip_vision.encode_image(torch.from_numpy(reference(thing))[None])
            x0, y0, x1, y1 = thing.box
            (positive,) = GligenImageBox.execute(
                positive, demo.gligen, image, demo.clip, "", x0, y0, x1 - x0, y1 - y0, "image",
                CLIPS_OWN,
            ).result  # fmt: skip
        return (positive,)

    def figures(self, demo, picture, scene):
        found = eye.detect(picture)
        values = placed(picture, scene.things)
        for thing in scene.things:
            best = max(found, key=lambda f: eye.iou(f.box, thing.box), default=None)
            alike = best is not None and eye.iou(best.box, thing.box) > 0.25
            values.setdefault("colour matches", []).append(alike and best.colour == thing.colour)
            values.setdefault("shape matches", []).append(alike and best.shape == thing.shape)
        return values

    def given(self, scene):
        picture = shown(world.render(replace(scene, things=())))
        for thing in scene.things:
            x0, y0, x1, y1 = (round(v * SHOWN) for v in thing.box)
            small = shown(reference(thing)).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS)
            picture.paste(small, (x0, y0))
        return outlined(picture, scene.things)


class Style(Measure):
    """The colour of a reference picture for all things of a prompt that names none."""

    kind = "text and image box"
    seed = 1002

    def scenes(self, count):
        rng = np.random.default_rng(self.seed)
        return [world.Scene.random(rng, world.pairs(), count=2) for _ in range(count)]

    def grounded(self, demo, scene):
        positive = demo.encode(" and ".join(f"a {t.shape}" for t in scene.things))
        image = demo.clip_vision.encode_image(torch.from_numpy(reference(scene.things[0]))[None])
        (positive,) = GligenImageBox.execute(
            positive, demo.gligen, image, demo.clip, "", 0.0, 0.0, 1.0, 1.0, "style", CLIPS_OWN
        ).result
        return (positive,)

    def figures(self, demo, picture, scene):
        share = eye.share_of(picture, scene.things[0].colour)
        return {"coloured pixels in the style's colour": [share]}

    def given(self, scene):
        return shown(reference(scene.things[0]))

    def over(self, scene, picture):
        return shown(picture)


class Keypoints(Measure):
    kind = "keypoints"
    seed = 1003

    def scenes(self, count):
        rng = np.random.default_rng(self.seed)
        return [world.Scene.persons(rng) for _ in range(count)]

    def grounded(self, demo, scene):
        people = json.dumps(np.array([t.joints for t in scene.things]).tolist())
        positive = demo.encode(prompt(scene.things))
        (positive,) = GligenKeypoints.execute(positive, demo.gligen, people, 0.3).result
        return (positive,)

    def figures(self, demo, picture, scene):
        """A pose has no colour: the persons found are taken for those given that fit them best."""
        found = [joints.find(picture, person.colour) for person in scene.things]
        errors = min(
            ([self.errors(*pair) for pair in zip(order, scene.things, strict=True)]
             for order in permutations(found)),
            key=lambda each: sum(MISSED if e is None else e.mean() for e in each),
        )  # fmt: skip
        seen = [e for e in errors if e is not None]
        return {
            "persons found": [e is not None for e in errors],
            "mean joint error": [e.mean() for e in seen],
            "joints within 5%": np.concatenate(
                [np.zeros(len(world.JOINTS)) if e is None else e < 0.05 for e in errors]
            ),
        }

    def errors(self, found, person: world.Thing) -> np.ndarray | None:
        """Of each joint, as a share of the picture's side."""
        return None if found is None else np.linalg.norm(found - np.array(person.joints), axis=-1)

    def given(self, scene):
        poses = [Pose(torch.tensor(t.joints)) for t in scene.things]
        return drawing.draw_lines(
            shown(world.render(replace(scene, things=()))), [pose.sketch() for pose in poses]
        )

    def over(self, scene, picture):
        image = shown(picture)
        draw = ImageDraw.Draw(image)
        for person in scene.things:
            for x, y in person.joints:
                x, y = x * SHOWN, y * SHOWN
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill="white", outline="black")
        return image


class Canny(Measure):
    kind = "canny map"
    seed = 1004

    def grounded(self, demo, scene):
        edges = eye.edges(world.render(scene)).float().expand(3, -1, -1).movedim(0, -1)[None]
        positive = demo.encode(prompt(scene.things))
        (positive,) = GligenSpatialMap.execute(positive, demo.gligen, edges, "automatic").result
        return (positive,)

    def figures(self, demo, picture, scene):
        agreement = eye.edge_agreement(eye.edges(picture)[0], eye.edges(world.render(scene))[0])
        return {"edge agreement": [agreement]}

    def given(self, scene):
        edges = eye.edges(world.render(scene))[0].float().numpy()
        return shown(np.stack([edges] * 3, axis=-1))

    def over(self, scene, picture):
        return shown(picture)


class Inpainting(Measure):
    """The last thing of a scene is painted into a picture of the others."""

    kind = "text box inpainting"
    seed = 1005

    def scenes(self, count):
        rng = np.random.default_rng(self.seed)
        return [
            world.Scene.random(rng, world.pairs(), count=int(rng.integers(2, 4)))
            for _ in range(count)
        ]

    def before(self, scene) -> np.ndarray:
        return world.render(replace(scene, things=scene.things[:-1]))

    def grounded(self, demo, scene):
        positive = demo.encode(prompt(scene.things))
        positive = ground_boxes(positive, demo.gligen, demo.clip, [boxes_of(scene.things[-1:])])
        picture = torch.from_numpy(self.before(scene))[None]
        return GligenInpaint.execute(positive, demo.gligen, demo.vae, picture).result

    @torch.inference_mode()
    def figures(self, demo, picture, scene):
        again = demo.vae.decode(demo.vae.encode(torch.from_numpy(self.before(scene))[None]))
        change = np.abs(picture - again[0].clamp(0, 1).numpy()).mean(-1)
        x0, y0, x1, y1 = (round(v * world.SIZE) for v in scene.things[-1].box)
        rim = 16  # pixels, which the decoder sees of a latent around
        change[max(0, y0 - rim) : y1 + rim, max(0, x0 - rim) : x1 + rim] = 0
        return {**placed(picture, scene.things[-1:]), "largest change outside": [change.max()]}

    def given(self, scene):
        return self.over(scene, self.before(scene))

    def over(self, scene, picture):
        return outlined(shown(picture), scene.things[-1:])


MEASURES = {
    "boxes": Boxes(),
    "images": Images(),
    "style": Style(),
    "keypoints": Keypoints(),
    "canny": Canny(),
    "inpainting": Inpainting(),
}


def prompt(things) -> str:
    return " and ".join(t.phrase for t in things)


def boxes_of(things) -> list[PhraseBox]:
    return [PhraseBox(t.phrase, Box(*t.box)) for t in things]


def with_boxes(demo: Demo, scene: world.Scene) -> tuple:
    positive = demo.encode(prompt(scene.things))
    return (ground_boxes(positive, demo.gligen, demo.clip, [boxes_of(scene.things)]),)


def reference(thing: world.Thing) -> np.ndarray:
    """A picture of a thing alone, large."""
    return world.render(world.Scene((replace(thing, box=(0.15, 0.15, 0.85, 0.85)),)))


def placed(picture: np.ndarray, things) -> Figures:
    """How well things stand in their boxes, colour and shape right."""
    found = eye.detect(picture)
    values: Figures = {"in place": [], "in place, held-out pairs": [], "mean IoU": []}
    for thing in things:
        iou = eye.box_accuracy(found, thing.colour, thing.shape, thing.box)
        values["in place"].append(iou > 0.5)
        values["mean IoU"].append(iou)
        if (thing.colour, thing.shape) in world.HELD_OUT:
            values["in place, held-out pairs"].append(iou > 0.5)
    return values


def outlined(image: Image.Image, things) -> Image.Image:
    """The things' boxes in their colours."""
    draw = ImageDraw.Draw(image)
    for thing in things:
        rectangle = tuple(round(v * (SHOWN - 1)) for v in thing.box)
        draw.rectangle(rectangle, outline="black", width=3)
        draw.rectangle(rectangle, outline=world.COLOURS[thing.colour], width=1)
    return image


def shown(picture: np.ndarray) -> Image.Image:
    """Of [H, W, 3] in 0..1, at the size of the sheets."""
    image = Image.fromarray((picture * 255).round().astype(np.uint8))
    return image.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
