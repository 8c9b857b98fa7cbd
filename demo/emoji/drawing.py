"""The brush of the demo world: a scene as a picture, with what is known of it at each place."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from .world import (
    HEAD,
    JOINTS,
    LIMBS,
    PERSONS,
    PLACES,
    SHIRTS,
    SIZE,
    TIMES,
    TINTS,
    WALL,
    Box,
    Scene,
    Thing,
    sprite,
)  # fmt: skip

AXIS = (np.arange(SIZE) + 0.5) / SIZE
SKY, GROUND, FIRST = 0, 1, 2
"""Owners of a place: the sky, the ground, and from 2 on the things in their order."""
SKIN, HAIR, TROUSERS = (236, 190, 158), (92, 62, 48), (66, 72, 104)
SHADOW = 0.35
MARGIN = 8  # pixels around a thing into which its shadow falls


class Layers(NamedTuple):
    picture: np.ndarray  # uint8 [128, 128, 3]
    owner: np.ndarray  # uint8 [128, 128], what is seen there
    height: np.ndarray  # uint8 [128, 128], how far a thing bulges towards the viewer


class Cutout(NamedTuple):
    """A thing by itself: its colours times its alpha, and alpha, 0..1, with its corner in the picture."""

    rgba: np.ndarray  # [h, w, 4]
    x: int
    y: int


def render(scene: Scene) -> np.ndarray:
    """The picture, float32 [128, 128, 3] in 0..1."""
    return layers(scene).picture.astype(np.float32) / 255


def layers(scene: Scene) -> Layers:
    glow = np.array(TIMES[scene.time][1])
    picture, owner = _landscape(scene)
    height = np.zeros((SIZE, SIZE), np.float32)
    for number, thing in enumerate(scene.things, start=FIRST):
        cutout = person(thing) if thing.name in PERSONS else _pasted(thing)
        _shade(picture, cutout)
        rows, columns, rgba = _clipped(cutout)
        alpha = rgba[..., 3:]
        light = 0.35 + 0.65 * glow if scene.time else glow  # things keep some light of their own
        picture[rows, columns] = picture[rows, columns] * (1 - alpha) + rgba[..., :3] * light
        seen = alpha[..., 0] > 0.5
        owner[rows, columns][seen] = number
        height[rows, columns] = np.maximum(height[rows, columns] * ~seen, _bulge(seen))
    light = 1 + scene.light * (AXIS[None, :, None] - 0.5)
    picture = np.clip((picture + np.array(TINTS[scene.tint])) * light, 0, 1)
    return Layers((picture * 255).round().astype(np.uint8), owner, (height * 255).astype(np.uint8))


def _landscape(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    (sky, glow), (ground, _) = TIMES[scene.time], PLACES[scene.place]
    y = AXIS[:, None, None]
    indoors = scene.place == "on a table"
    picture = _fade(WALL if indoors else sky, y / scene.horizon)
    picture = picture * (glow if indoors else (1, 1, 1)) + np.zeros((SIZE, SIZE, 1))
    owner = np.zeros((SIZE, SIZE), np.uint8)
    if ground:
        below = np.clip((y - scene.horizon) * SIZE / 3 + 0.5, 0, 1)
        earth = _fade(ground, (y - scene.horizon) / (1 - scene.horizon)) * glow
        picture = picture * (1 - below) + earth * below
        owner[AXIS > scene.horizon] = GROUND
    return picture, owner


def _fade(colours, share: np.ndarray) -> np.ndarray:
    first, last = (np.array(colour) / 255 for colour in colours)
    return first + (last - first) * np.clip(share, 0, 1)


def _pasted(thing: Thing) -> Cutout:
    """The thing's picture in its box, to the fraction of a pixel."""
    x0, y0, x1, y1 = (v * SIZE for v in thing.box)
    left, top, right, bottom = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
    image = sprite(thing.name)
    across, down = image.width / (x1 - x0), image.height / (y1 - y0)
    pad = math.ceil(max(across, down)) + 1
    canvas = Image.new("RGBA", (image.width + 2 * pad, image.height + 2 * pad))
    canvas.paste(image, (pad, pad))
    source = ((left - x0) * across + pad, (top - y0) * down + pad,
              (right - x0) * across + pad, (bottom - y0) * down + pad)  # fmt: skip
    small = canvas.resize((right - left, bottom - top), Image.Resampling.BOX, source)
    rgba = np.asarray(small).astype(np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    return Cutout(rgba, left, top)


def person(thing: Thing) -> Cutout:
    """A doll of round limbs by the thing's joints."""
    at = dict(zip(JOINTS, np.array(thing.joints) * SIZE, strict=True))
    tall = np.linalg.norm(at["nose"] - (at["left_hip"] + at["right_hip"]) / 2) / 0.45
    limb = max(0.042 * tall, 1.6)
    head = HEAD * 0.9 * tall
    shirt = SHIRTS[thing.name.split()[-1]]
    rgba = np.zeros((SIZE, SIZE, 4), np.float32)
    neck = (at["left_shoulder"] + at["right_shoulder"]) / 2

    def draw(a, b, radius, colour):
        _capsule(rgba, a, b, radius, np.array(colour, np.float32) / 255)

    for side in ("left", "right"):
        hip, (knee, ankle) = at[f"{side}_hip"], (at[j] for j in LIMBS[f"{side}_hip"])
        draw(hip, knee, limb * 1.15, TROUSERS)
        draw(knee, ankle, limb, TROUSERS)
    for share in (0.0, 0.5, 1.0):  # the trunk
        top = at["left_shoulder"] * (1 - share) + at["right_shoulder"] * share
        bottom = at["left_hip"] * (1 - share) + at["right_hip"] * share
        draw(top, bottom, limb * 1.5, shirt)
    for side in ("left", "right"):
        shoulder, (elbow, wrist) = (
            at[f"{side}_shoulder"],
            (at[j] for j in LIMBS[f"{side}_shoulder"]),
        )
        draw(shoulder, elbow, limb, shirt)
        draw(elbow, wrist, limb * 0.9, SKIN)
    draw(neck, at["nose"], limb, SKIN)
    draw(at["nose"] - (0, 0.2 * head), at["nose"] - (0, 0.2 * head), head * 1.05, HAIR)
    draw(at["nose"] + (0, 0.1 * head), at["nose"] + (0, 0.1 * head), head * 0.88, SKIN)
    for eye in ("left_eye", "right_eye"):
        draw(at[eye], at[eye], max(0.14 * head, 0.8), (40, 34, 40))
    return Cutout(rgba, 0, 0)


def _capsule(rgba: np.ndarray, a, b, radius: float, colour: np.ndarray) -> None:
    """Paint a round limb from a to b, lighter along its middle."""
    low = np.floor(np.minimum(a, b) - radius - 1).astype(int).clip(0, SIZE)
    high = np.ceil(np.maximum(a, b) + radius + 1).astype(int).clip(0, SIZE)
    at = slice(low[1], high[1]), slice(low[0], high[0])
    x, y = np.arange(low[0], high[0])[None, :] + 0.5, np.arange(low[1], high[1])[:, None] + 0.5
    along = b - a
    share = ((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(along @ along, 1e-6)
    share = np.clip(share, 0, 1)
    away = np.hypot(x - a[0] - share * along[0], y - a[1] - share * along[1])
    alpha = np.clip(radius - away + 0.5, 0, 1)[..., None]
    shine = np.sqrt(np.clip(1 - (away / (radius + 0.5)) ** 2, 0, 1))[..., None]
    painted = np.concatenate([colour * (0.72 + 0.3 * shine), np.ones_like(alpha)], -1)
    rgba[at] = rgba[at] * (1 - alpha) + np.clip(painted, 0, 1) * alpha


def _shade(picture: np.ndarray, cutout: Cutout) -> None:
    """A soft shadow of the thing, a little below it."""
    alpha = cutout.rgba[..., 3]
    drop = max(1, alpha.shape[0] // 16) if alpha.shape[0] < SIZE else 4
    mask = Image.fromarray((alpha * 255).astype(np.uint8))
    canvas = Image.new("L", (mask.width + 2 * MARGIN, mask.height + 2 * MARGIN))
    canvas.paste(mask, (MARGIN, MARGIN + drop))
    soft = np.asarray(canvas.filter(ImageFilter.BoxBlur(3))).astype(np.float32) / 255
    shadow = Cutout(soft[..., None], cutout.x - MARGIN, cutout.y - MARGIN)
    rows, columns, dark = _clipped(shadow)
    picture[rows, columns] *= 1 - SHADOW * dark


def _clipped(cutout: Cutout) -> tuple[slice, slice, np.ndarray]:
    """Where it lies in the picture, and what of it does."""
    h, w = cutout.rgba.shape[:2]
    top, left = max(0, cutout.y), max(0, cutout.x)
    bottom, right = min(SIZE, cutout.y + h), min(SIZE, cutout.x + w)
    inside = cutout.rgba[top - cutout.y : bottom - cutout.y, left - cutout.x : right - cutout.x]
    return slice(top, bottom), slice(left, right), inside


def _bulge(seen: np.ndarray) -> np.ndarray:
    """How far each place of a thing stands out, 0..1: round towards its edges, flat in the middle."""
    away = ndimage.distance_transform_edt(np.pad(seen, 1))[1:-1, 1:-1]
    share = np.clip(away / max(6.0, 0.6 * away.max()), 0, 1)
    return np.sqrt(1 - (1 - share) ** 2) * seen


def box_of(seen: np.ndarray) -> Box:
    """The box of a mask [H, W], as fractions of it."""
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    h, w = seen.shape
    return columns[0] / w, rows[0] / h, (columns[-1] + 1) / w, (rows[-1] + 1) / h
