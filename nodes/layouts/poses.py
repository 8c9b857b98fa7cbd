"""Human keypoints as other tools write them, as poses of COCO's 17 points in fractions of the image.

POSE_KEYPOINT is OpenPose's JSON: frames {canvas_width, canvas_height, people: [{pose_keypoints_2d: flat
x, y, score}]}; some tools write pixels and some fractions, some zeros, None or negative numbers where a
point or a person is missing.
"""

import math
from typing import Any

import torch

from ...gligen_ops.entities import Pose
from ...gligen_ops.errors import GligenError
from ...gligen_ops.tokenizers.keypoints import PERSONS, POINTS
from .problems import Problems, from_json, short

# Where each of COCO's points is: nose, then eye, ear, shoulder, elbow, wrist, hip, knee and ankle, of
# each the left before the right.
FROM = {
    17: list(range(17)),  # COCO
    18: [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10],  # OpenPose, with a neck
    25: [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11],  # OpenPose BODY_25
}
ORDERS = "17 (COCO), 18 (OpenPose) or 25 (OpenPose BODY_25)"
JSON_HELP = (
    "Write OpenPose's JSON, or a list of people, each a list of points as [x, y] from 0 to 1: "
    "[[[0.5, 0.1], [0.52, 0.08], …]]"
)
LARGEST_FRACTION = 2.0
"""A point of a picture in pixels is further from the corner than this, one in fractions is not."""
KEYS = {"people": "people", "pose_keypoints_2d": "keypoints_2d"}
"""What is looked for in OpenPose's JSON: a part of one of the names that are there, else it is not that."""
Point = tuple[float, float] | None


def poses(value: Any, text: str, confidence: float) -> list[list[Pose]]:
    """The persons of each frame, from a POSE_KEYPOINT or from the same as JSON, in which a person may
    also be a plain list of points. Raises one GligenError of all that is wrong."""
    name = "pose_keypoint" if value is not None else "json"
    if value is None:
        value = _parsed(text)
    is_batch = isinstance(value, list | tuple) and any(isinstance(f, dict) for f in value)
    frames = value if is_batch else [value]
    found, problems = [], Problems()
    for number, frame in enumerate(frames, start=1):
        with problems.at(f"Frame {number}" if len(frames) > 1 else ""):
            found.append(_frame(frame, confidence, problems))
    if not problems.lines and not any(found):
        problems.add("there is no person in it, or none of its points is sure enough.")
    problems.refuse(f"{name}: the pose cannot be used.")
    return found


def _parsed(text: str) -> Any:
    if not text.strip():
        raise GligenError("pose_keypoint: connect a pose, or write one in json.")
    try:
        return from_json(text)
    except GligenError as error:
        raise GligenError(f"json: {error} {JSON_HELP}") from error


def _frame(frame: Any, confidence: float, problems: Problems) -> list[Pose]:
    canvas, people = None, frame
    if isinstance(frame, dict):
        people = _value(frame, "people") or []
        size = [frame.get("canvas_width"), frame.get("canvas_height")]
        canvas = size if all(_is_number(s) and s > 0 for s in size) else None
    if not isinstance(people, list | tuple):
        raise GligenError(f"expected a list of people, got {type(people).__name__}.")
    if _is_person(people):
        people = [people]
    persons = []
    for number, person in enumerate(people, start=1):
        with problems.at(f"person {number}"):
            points = _points(person, confidence)
            if any(points):
                persons.append(points)
    if len(persons) > PERSONS:
        raise GligenError(
            f"there are {len(persons)} people, and GLIGEN grounds at most {PERSONS}. Leave some out."
        )
    return _in_fractions(persons, canvas)


def _points(person: Any, confidence: float) -> list[Point]:
    """COCO's 17 points of a person, None where missing; none at all where no person is."""
    if isinstance(person, dict):
        person = _value(person, "pose_keypoints_2d")
    if person is None:
        return []
    if not isinstance(person, list | tuple):
        raise GligenError(f"expected a list of points, got {type(person).__name__}.")
    rows = list(person)
    if not any(isinstance(row, list | tuple) for row in rows):
        rows = [rows[i : i + 3] for i in range(0, len(rows), 3)]
    if not rows:
        return []
    if len(rows) not in FROM or not all(row is None or _is_point(row) for row in rows):
        what = "points" if len(rows) == len(person) else "numbers"
        raise GligenError(
            f"it has {len(person)} {what}; expected {ORDERS} points, each x and y, or x, y and score."
        )
    return [_point(rows[i], confidence) for i in FROM[len(rows)]]


def _point(row: Any, confidence: float) -> Point:
    if row is None or not all(_is_number(v) for v in row):
        return None
    x, y, *score = row
    if min(x, y) < 0 or (x, y) == (0, 0) or not _is_sure(score, confidence):
        return None
    return float(x), float(y)


def _is_sure(score: list[float], confidence: float) -> bool:
    return not score or (score[0] > 0 and score[0] >= confidence)


def _in_fractions(persons: list[list[Point]], canvas: list | None) -> list[Pose]:
    largest = max((max(p) for person in persons for p in person if p), default=0.0)
    scale = canvas if largest > LARGEST_FRACTION else (1.0, 1.0)
    if scale is None:
        raise GligenError(
            f"the points reach up to {largest:g}, so they are no fractions, and canvas_width and "
            "canvas_height are missing: give fractions from 0 to 1, or pixels as OpenPose's JSON, which "
            "has both beside people."
        )
    found = []
    for person in persons:
        points = torch.zeros(POINTS, 2)
        for i, point in enumerate(person):
            if point:
                x, y = point[0] / scale[0], point[1] / scale[1]
                if max(x, y) <= 1:
                    points[i] = torch.tensor((x, y))
        if points.any():
            found.append(Pose(points))
    return found


def _value(mapping: dict, key: str) -> Any:
    """What OpenPose's JSON has under this key. Raises GligenError for the keys of another format."""
    if mapping and not any(KEYS[key] in name for name in map(str, mapping)):
        found = ", ".join(map(str, mapping))
        raise GligenError(f'"{key}" is missing. It has: {short(found)}.')
    return mapping.get(key)


def _is_person(people: list | tuple) -> bool:
    """Whether what should be people are the points, or the numbers, of one."""
    return any(_is_number(row) or (_is_point(row) and all(map(_is_number, row))) for row in people)


def _is_point(row: Any) -> bool:
    return isinstance(row, list | tuple) and len(row) in (2, 3)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False
