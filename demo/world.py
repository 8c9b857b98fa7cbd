"""The demo world: coloured shapes and stick figures under a light, with captions and boxes.

`Scene.random` draws up a scene, `render` paints it and `caption` describes it. Boxes and points are
fractions of the image, 0..1; boxes are xyxy.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
SUPERSAMPLING = 4
COLOURS = {
    "red": (218, 40, 44),
    "yellow": (236, 196, 28),
    "green": (44, 160, 60),
    "cyan": (40, 190, 200),
    "blue": (44, 76, 214),
    "purple": (160, 54, 188),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
FIGURE = "person"
HELD_OUT = (
    ("red", "star"),
    ("yellow", "ring"),
    ("green", "square"),
    ("cyan", "triangle"),
    ("blue", "circle"),
    ("purple", "cross"),
)
"""Pairs that the base knows from captions and that no grounding data contains."""

BARE = 0.2  # share of texts without articles

LIGHTS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
GROUNDS = ((196, 194, 190), (188, 192, 196), (196, 190, 184), (186, 194, 186), (176, 178, 182))
WARMTH = np.array((0.2, 0.0, -0.2))

# The 17 points of a COCO person in a unit box, standing with arms down.
STANDING = {
    "nose": (0.50, 0.10), "left_eye": (0.54, 0.08), "right_eye": (0.46, 0.08),
    "left_ear": (0.57, 0.10), "right_ear": (0.43, 0.10),
    "left_shoulder": (0.64, 0.26), "right_shoulder": (0.36, 0.26),
    "left_elbow": (0.74, 0.42), "right_elbow": (0.26, 0.42),
    "left_wrist": (0.80, 0.56), "right_wrist": (0.20, 0.56),
    "left_hip": (0.58, 0.56), "right_hip": (0.42, 0.56),
    "left_knee": (0.60, 0.77), "right_knee": (0.40, 0.77),
    "left_ankle": (0.62, 0.97), "right_ankle": (0.38, 0.97),
}  # fmt: skip
JOINTS = tuple(STANDING)
BONES = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"), ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
)  # fmt: skip
LIMBS = {  # root: the joints that swing with it, in order along the limb
    "left_shoulder": ("left_elbow", "left_wrist"),
    "right_shoulder": ("right_elbow", "right_wrist"),
    "left_hip": ("left_knee", "left_ankle"),
    "right_hip": ("right_knee", "right_ankle"),
}

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    colour: str
    shape: str
    box: Box
    joints: tuple[tuple[float, float], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def phrase(self) -> str:
        return f"a {self.name}"


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    light: str = "top"
    ground: tuple[int, int, int] = field(default=GROUNDS[0])

    @staticmethod
    def random(rng: np.random.Generator, pairs, count: int | None = None, figures=0.0) -> "Scene":
        """1 to 3 things (or `count`) apart from each other, each a (colour, shape) of `pairs`, or
        with probability `figures` a person."""
        count = count or int(rng.integers(1, 4))
        boxes = _random_boxes(rng, count)
        things = []
        for box in boxes:
            colour, shape = pairs[rng.integers(len(pairs))]
            if box[3] - box[1] > 0.3 and rng.random() < figures:
                things.append(_random_figure(rng, colour, box))
            else:
                things.append(Thing(colour, shape, box))
        return Scene.lit(rng, things)

    @staticmethod
    def persons(rng: np.random.Generator, count: int | None = None) -> "Scene":
        """One person or two (or `count`), each large and of a colour of its own."""
        count = count or int(rng.integers(1, 3))
        boxes = _random_boxes(rng, count)
        while min(box[3] - box[1] for box in boxes) < 0.4:
            boxes = _random_boxes(rng, count)
        colours = rng.permutation(list(COLOURS))
        return Scene.lit(
            rng, [_random_figure(rng, str(c), b) for c, b in zip(colours, boxes, strict=False)]
        )

    @staticmethod
    def lit(rng: np.random.Generator, things: list[Thing]) -> "Scene":
        """These things under some light on some ground."""
        light = list(LIGHTS)[rng.integers(len(LIGHTS))]
        return Scene(tuple(things), light, GROUNDS[rng.integers(len(GROUNDS))])


def standing(colour: str, box: Box) -> Thing:
    """A person with arms down, filling the box."""
    x0, y0, x1, y1 = box
    joints = ((x0 + u * (x1 - x0), y0 + v * (y1 - y0)) for u, v in STANDING.values())
    return Thing(colour, FIGURE, box, tuple(joints))


def pairs(held_out: bool | None = None) -> list[tuple[str, str]]:
    """All (colour, shape) pairs; only the held-out ones; or only the others."""
    every = [(c, s) for c in COLOURS for s in SHAPES]
    return every if held_out is None else [p for p in every if (p in HELD_OUT) == held_out]


def _random_boxes(rng, count: int) -> list[Box]:
    while True:
        boxes: list[Box] = []
        for _ in range(20 * count):
            side = rng.uniform(0.28, 0.62 if count == 1 else 0.5 if count == 2 else 0.42)
            aspect = math.exp(rng.uniform(-0.35, 0.35))
            w, h = min(0.9, side * aspect), min(0.9, side / aspect)
            x, y = rng.uniform(0.02, 0.98 - w), rng.uniform(0.02, 0.98 - h)
            box = (x, y, x + w, y + h)
            if all(_apart(box, other) for other in boxes):
                boxes.append(box)
            if len(boxes) == count:
                return boxes


def _apart(a: Box, b: Box, gap: float = 0.03) -> bool:
    return a[2] + gap < b[0] or b[2] + gap < a[0] or a[3] + gap < b[1] or b[3] + gap < a[1]


def _random_figure(rng, colour: str, box: Box) -> Thing:
    """A person in a random pose, filling the box with its joints (a margin left for head and line)."""
    points = {name: np.array(p) for name, p in STANDING.items()}
    for root, limb in LIMBS.items():
        arm = root.endswith("shoulder")
        previous, angle = points[root], 0.0
        lengths = [
            np.linalg.norm(points[a] - points[b]) for a, b in zip((root, *limb), limb, strict=False)
        ]
        side = 1 if root.startswith("left") else -1
        angle = rng.uniform(-0.3, 2.6) if arm else rng.uniform(-0.1, 0.7)
        for joint, length in zip(limb, lengths, strict=True):
            step = np.array([side * math.sin(angle), math.cos(angle)]) * length
            points[joint] = previous = previous + step
            angle += rng.uniform(-0.2, 1.2) if arm else rng.uniform(-0.6, 0.1)
    xy = np.array(list(points.values()))
    low, high = xy.min(0), xy.max(0)
    low[1] -= 0.06
    span = np.maximum(high - low, 0.3)
    margin = 0.06
    xy = (xy - (low + high) / 2) / span * (1 - 2 * margin) + 0.5
    corner, extent = np.array(box[:2]), np.array([box[2] - box[0], box[3] - box[1]])
    return Thing(colour, FIGURE, box, tuple(map(tuple, corner + xy * extent)))


def silhouette(thing: Thing, size: int = SIZE) -> Image.Image:
    """The thing's mask as an anti-aliased 'L' image of size × size."""
    big = size * SUPERSAMPLING
    mask = Image.new("L", (big, big))
    draw = ImageDraw.Draw(mask)
    x0, y0, x1, y1 = (v * big for v in thing.box)

    def polygon(points):
        draw.polygon([(x0 + u * (x1 - x0), y0 + v * (y1 - y0)) for u, v in points], fill=255)

    if thing.shape == FIGURE:
        _draw_figure(draw, thing, big)
    elif thing.shape in ("circle", "ring"):
        draw.ellipse((x0, y0, x1, y1), fill=255)
        if thing.shape == "ring":
            w, h = (x1 - x0) * 0.27, (y1 - y0) * 0.27
            draw.ellipse((x0 + w, y0 + h, x1 - w, y1 - h), fill=0)
    elif thing.shape == "square":
        draw.rectangle((x0, y0, x1, y1), fill=255)
    elif thing.shape == "triangle":
        polygon([(0.5, 0), (1, 1), (0, 1)])
    elif thing.shape == "star":
        polygon(_star())
    elif thing.shape == "cross":
        a, b = 1 / 3, 2 / 3
        polygon([(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b),
                 (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)])  # fmt: skip
    return mask.resize((size, size), Image.Resampling.BOX)


def _star() -> list[tuple[float, float]]:
    turns = [math.pi * (k / 5 - 0.5) for k in range(10)]
    xy = np.array([
        (math.cos(t) * r, math.sin(t) * r)
        for t, r in zip(turns, (1, 0.382) * 5, strict=True)
    ])  # fmt: skip
    low, high = xy.min(0), xy.max(0)
    return [tuple(p) for p in (xy - low) / (high - low)]


def _draw_figure(draw, thing: Thing, big: int) -> None:
    joints = dict(zip(JOINTS, np.array(thing.joints) * big, strict=True))
    height = (thing.box[3] - thing.box[1]) * big
    line = max(height * 0.085, 2.6 * SUPERSAMPLING)
    for a, b in BONES:
        draw.line((*joints[a], *joints[b]), fill=255, width=round(line))
        for p in (joints[a], joints[b]):
            draw.ellipse((*(p - line / 2), *(p + line / 2)), fill=255)
    neck = (joints["left_shoulder"] + joints["right_shoulder"]) / 2
    draw.line((*neck, *joints["nose"]), fill=255, width=round(line))
    head = max(0.085 * height, 1.4 * line)
    draw.ellipse((*(joints["nose"] - head), *(joints["nose"] + head)), fill=255)


def render(scene: Scene, size: int = SIZE) -> np.ndarray:
    """The picture, float32 [size, size, 3] in 0..1. The ground turns from cool on the left to warm on
    the right and darkens downwards, so that a model of it has to know where it paints; light falls
    off linearly across the picture."""
    axis = (np.arange(size) + 0.5) / size - 0.5
    x, y = axis[None, :, None], axis[:, None, None]
    dx, dy = LIGHTS[scene.light]
    light = 0.9 + 0.16 * (dx * x + dy * y)
    picture = np.array(scene.ground) / 255 + x * WARMTH + np.zeros((size, 1, 1))
    picture = picture * (1 - 0.4 * y)
    for thing in scene.things:
        mask = np.asarray(silhouette(thing, size))[..., None] / 255
        picture = picture * (1 - mask) + mask * np.array(COLOURS[thing.colour]) / 255
    return np.clip(picture * light, 0, 1).astype(np.float32)


def caption(scene: Scene, rng: np.random.Generator, coloured: bool = True) -> str:
    """Names the things in random order, at times without articles; sometimes says where they are and
    where light comes from. coloured: with their colours."""
    places, bare = rng.random() < 0.5, rng.random() < BARE
    names = [t.name if coloured else t.shape for t in scene.things]
    names = names if bare else [f"a {name}" for name in names]
    phrases = [
        n + (_place(t, rng) if places else "") for n, t in zip(names, scene.things, strict=True)
    ]
    rng.shuffle(phrases)
    text = (" and " if rng.random() < 0.5 else ", ").join(phrases)
    return text + (f", light from the {scene.light}" if rng.random() < 0.5 else "")


def _place(thing: Thing, rng) -> str:
    x, y = (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2
    words = []
    if abs(x - 0.5) > 0.12:
        words.append("on the left" if x < 0.5 else "on the right")
    if abs(y - 0.5) > 0.12:
        words.append("at the top" if y < 0.5 else "at the bottom")
    if not words:
        return " in the middle"
    return " " + (" ".join(words) if rng.random() < 0.5 else words[rng.integers(len(words))])
