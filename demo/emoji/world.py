"""The demo world: little things and persons in landscapes, with captions and boxes.

`Scene.random` draws up a scene, `caption` describes it and `drawing.render` paints it. Boxes and points
are fractions of the image, 0..1; boxes are xyxy.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128
THINGS = {  # name: its class among the 150 of ADE20K
    "cat": "animal", "dog": "animal", "fox": "animal", "panda": "animal", "frog": "animal",
    "lion": "animal", "pig": "animal", "elephant": "animal", "fish": "animal", "butterfly": "animal",
    "turtle": "animal", "penguin": "animal", "duck": "animal", "owl": "animal", "whale": "animal",
    "crab": "animal", "red apple": "food", "banana": "food", "strawberry": "food",
    "slice of watermelon": "food", "slice of pizza": "food", "hamburger": "food", "doughnut": "food",
    "ice cream": "food", "cake": "food", "carrot": "food", "pineapple": "food",
    "sunflower": "flower", "cactus": "plant", "tree": "tree", "mushroom": "plant", "house": "house",
    "car": "car", "rocket": "airplane", "airplane": "airplane", "sailboat": "boat",
    "balloon": "plaything", "guitar": "plaything", "football": "ball", "gift": "box",
    "crown": "plaything", "alarm clock": "clock", "teapot": "pot", "robot": "plaything",
    "ghost": "plaything", "pumpkin": "food", "snowman": "sculpture", "castle": "building",
}  # fmt: skip
HELD_OUT = {"fox", "turtle", "owl", "strawberry", "slice of pizza", "house", "rocket", "gift"}
"""Things that the base knows from captions and that no grounding data contains."""
SHIRTS = {
    "red": (214, 62, 62),
    "yellow": (240, 186, 50),
    "green": (80, 168, 84),
    "blue": (66, 120, 214),
}
PERSONS = tuple(f"person in {colour}" for colour in SHIRTS)
NAMES = (*THINGS, *PERSONS)
PLACES = {  # words: colours of the ground from the horizon down, and its class
    "on grass": (((128, 184, 86), (66, 132, 58)), "grass"),
    "on the beach": (((232, 208, 160), (206, 172, 118)), "sand"),
    "in the snow": (((236, 242, 250), (196, 210, 230)), "earth"),
    "at sea": (((70, 150, 190), (28, 92, 150)), "sea"),
    "on a table": (((176, 122, 80), (128, 82, 52)), "table"),
    "in the sky": (None, "sky"),
}
TIMES = {  # words: colours of the sky from the top down, and what the light does to ground and things
    "": (((92, 160, 226), (190, 222, 244)), (1.0, 1.0, 1.0)),
    "at sunset": (((120, 86, 150), (248, 172, 112)), (1.0, 0.82, 0.74)),
    "at night": (((16, 20, 54), (52, 58, 110)), (0.42, 0.46, 0.66)),
}
WALL = ((236, 214, 204), (214, 196, 196))  # behind a table, in place of a sky
TINTS = {
    "": (0.0, 0.0, 0.0),
    "in warm light": (0.07, 0.0, -0.07),
    "in cool light": (-0.07, 0.0, 0.07),
}
LARGEST = (0.66, 0.54, 0.44, 0.38)  # side of a thing among so many
SMALLEST = (0.34, 0.30, 0.27, 0.25)
BARE = 0.2  # share of texts without articles

# The 17 points of a COCO person in a unit box, standing with arms down.
STANDING = {
    "nose": (0.50, 0.10), "left_eye": (0.54, 0.08), "right_eye": (0.46, 0.08),
    "left_ear": (0.57, 0.10), "right_ear": (0.43, 0.10),
    "left_shoulder": (0.62, 0.25), "right_shoulder": (0.38, 0.25),
    "left_elbow": (0.70, 0.41), "right_elbow": (0.30, 0.41),
    "left_wrist": (0.74, 0.56), "right_wrist": (0.26, 0.56),
    "left_hip": (0.57, 0.55), "right_hip": (0.43, 0.55),
    "left_knee": (0.59, 0.76), "right_knee": (0.41, 0.76),
    "left_ankle": (0.60, 0.95), "right_ankle": (0.40, 0.95),
}  # fmt: skip
JOINTS = tuple(STANDING)
LIMBS = {  # root: the joints that swing with it, in order along the limb
    "left_shoulder": ("left_elbow", "left_wrist"),
    "right_shoulder": ("right_elbow", "right_wrist"),
    "left_hip": ("left_knee", "left_ankle"),
    "right_hip": ("right_knee", "right_ankle"),
}
HEAD = 0.1  # radius, in heights of a standing person

Box = tuple[float, float, float, float]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Thing:
    name: str
    box: Box
    joints: Points = ()

    @property
    def phrase(self) -> str:
        return phrase_of(self.name)


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    place: str = "on grass"
    time: str = ""
    tint: str = ""
    horizon: float = 0.6
    light: float = 0.0  # how much brighter it is on the right than on the left

    @staticmethod
    def random(rng: np.random.Generator, names=NAMES, most: int = 4) -> "Scene":
        """1 to `most` things apart from each other, each another of `names`."""
        count = min(most, int(rng.choice(4, p=(0.3, 0.35, 0.2, 0.15))) + 1)
        while True:
            picked = rng.choice(len(names), count, replace=False)
            things = _apart([names[i] for i in picked], rng)
            if things:
                return Scene.under(rng, things)

    @staticmethod
    def under(rng: np.random.Generator, things: list[Thing]) -> "Scene":
        """These things in some place, at some time, under some light."""
        time, tint = (list(d)[rng.choice(3, p=(0.5, 0.25, 0.25))] for d in (TIMES, TINTS))
        place = list(PLACES)[rng.integers(len(PLACES))]
        horizon, light = rng.uniform(0.45, 0.72), rng.uniform(-0.2, 0.2)
        return Scene(tuple(things), place, time, tint, horizon, light)


def phrase_of(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def names(held_out: bool) -> tuple[str, ...]:
    """Those that are held out of the grounding data, or the others."""
    return tuple(name for name in NAMES if (name in HELD_OUT) == held_out)


@cache
def sprite(name: str) -> Image.Image:
    """The thing's picture, cut to what is to be seen of it, RGBA."""
    file = Path(__file__).with_name("things") / f"{name.replace(' ', '_')}.webp"
    picture = Image.open(file).convert("RGBA")
    return picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())


def _apart(names: list[str], rng) -> list[Thing]:
    """The things named, at places where none touches another; [] where no place was found."""
    things: list[Thing] = []
    for name in names:
        for _ in range(30):
            thing = placed(name, rng, SMALLEST[len(names) - 1], LARGEST[len(names) - 1])
            if all(_gap(thing.box, other.box) > 0.02 for other in things):
                things.append(thing)
                break
        else:
            return []
    return things


def placed(name: str, rng, smallest: float, largest: float) -> Thing:
    """The thing somewhere in the picture. smallest, largest: of the square root of its box's area; a
    person is half as large again."""
    pose = None
    if name in PERSONS:
        pose = _pose(rng)
        (wide, high), stretch = pose.max(0), 1.3
    else:
        (wide, high), stretch = sprite(name).size, 1.0
    side = stretch * rng.uniform(smallest, largest)
    aspect = min(max(wide / high * math.exp(2 * rng.uniform(-0.08, 0.08)), 0.4), 1.8)
    w, h = side * math.sqrt(aspect), side / math.sqrt(aspect)
    w, h = min(w, 0.94), min(h, 0.94)
    x, y = rng.uniform(0.02, 0.98 - w), rng.uniform(0.02, 0.98 - h)
    joints = () if pose is None else pose[:-1] / pose[-1] * (w, h) + (x, y)
    return Thing(name, (x, y, x + w, y + h), tuple(map(tuple, joints)))


def standing(name: str, box: Box) -> Thing:
    """A person with arms down, filling the box."""
    x0, y0, x1, y1 = box
    joints = ((x0 + u * (x1 - x0), y0 + v * (y1 - y0)) for u, v in STANDING.values())
    return Thing(name, box, tuple(joints))


def _gap(a: Box, b: Box) -> float:
    return max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])


def _pose(rng) -> np.ndarray:
    """The 17 joints of a person in a random pose, from the corner of its box, and the box's size. [18, 2]"""
    points = {name: np.array(p) for name, p in STANDING.items()}
    for root, limb in LIMBS.items():
        arm, side = root.endswith("shoulder"), 1 if root.startswith("left") else -1
        start = points[root]
        chain = (root, *limb)
        lengths = [np.linalg.norm(points[b] - points[a]) for a, b in zip(chain, limb, strict=False)]
        angle = rng.uniform(-0.2, 2.6) if arm else rng.uniform(-0.05, 0.7)
        for joint, length in zip(limb, lengths, strict=True):
            start = start + np.array([side * math.sin(angle), math.cos(angle)]) * length
            points[joint] = start
            angle += rng.uniform(-0.2, 1.2) if arm else rng.uniform(-0.6, 0.1)
    joints = np.array(list(points.values()))
    low, high = joints.min(0) - 0.04, joints.max(0) + 0.04
    low, high = np.minimum(low, points["nose"] - HEAD), np.maximum(high, points["nose"] + HEAD)
    return np.concatenate([joints - low, (high - low)[None]])


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Names the things in random order, at times without articles; often the place, the time and the
    light, sometimes where the things are."""
    bare, sides = rng.random() < BARE, rng.random() < 0.4
    texts = [
        (t.name if bare else t.phrase) + (_side(t.box, rng) if sides else "") for t in scene.things
    ]
    rng.shuffle(texts)
    ends = texts.pop()
    text = (", ".join(texts) + (" and " if rng.random() < 0.7 else ", ") if texts else "") + ends
    said = [words for words in (scene.place, scene.time, scene.tint) if rng.random() < 0.8]
    return " ".join([text, *filter(None, said)])


def _side(box: Box, rng) -> str:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    words = []
    if abs(x - 0.5) > 0.12:
        words.append("on the left" if x < 0.5 else "on the right")
    if abs(y - 0.5) > 0.12:
        words.append("at the top" if y < 0.5 else "at the bottom")
    if not words:
        return " in the middle"
    return " " + (" ".join(words) if rng.random() < 0.5 else words[rng.integers(len(words))])


def texts() -> list[str]:
    """Texts with every word that a caption can have."""
    rest = "a an and , in the middle on the left on the right at the top at the bottom"
    return [*NAMES, *PLACES, *TIMES, *TINTS, rest]
