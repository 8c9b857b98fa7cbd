"""Keypoints as each tool writes them become COCO's 17 points in fractions of the image."""

import json
import math

import pytest
import torch
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.nodes.layouts.poses import poses

COCO = ["nose"] + [
    f"{side} {part}"
    for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
]
OPENPOSE = [
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
    "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
]  # fmt: skip
BODY_25 = [
    *OPENPOSE[:8], "middle hip", *OPENPOSE[8:], "left big toe", "left small toe", "left heel",
    "right big toe", "right small toe", "right heel",
]  # fmt: skip
PLACES = {name: (0.1 + 0.04 * i, 0.9 - 0.03 * i) for i, name in enumerate(COCO)}


def place(name):
    return PLACES.get(name, (0.5, 0.5))


def flat(names, scale=(1, 1), score=0.9, **changes):
    """x, y, score of each point. changes: of named points, in place of them."""
    values = []
    for name in names:
        x, y = place(name)
        point = changes.get(name.replace(" ", "_"), (x * scale[0], y * scale[1], score))
        values += point
    return values


def frame(*people, width=None, height=None, **keys):
    people = [{"pose_keypoints_2d": p, "face_keypoints_2d": None} for p in people]
    canvas = {"canvas_width": width, "canvas_height": height} if width else {}
    return {"people": people, **canvas, **keys}


def read(value, text="", confidence=0.3):
    return [[pose.points for pose in persons] for persons in poses(value, text, confidence)]


def expected(*missing):
    return torch.tensor([(0.0, 0.0) if name in missing else PLACES[name] for name in COCO])


@pytest.mark.parametrize("names", [COCO, OPENPOSE, BODY_25], ids=["COCO", "OpenPose", "BODY_25"])
@pytest.mark.parametrize("pixels", [True, False], ids=["pixels", "fractions"])
def test_every_order_and_unit_gives_cocos_points_in_fractions(names, pixels):
    scale = (640, 480) if pixels else (1, 1)
    ((points,),) = read([frame(flat(names, scale), width=640, height=480)])
    assert torch.allclose(points, expected(), atol=1e-6)


@pytest.mark.parametrize(
    "written",
    [(0, 0, 0), (-12.0, -7.0, 0.9), (300, 200, 0.0), (300, 200, 0.29), (None, None, None),
     (math.nan, 3, 1), (700, 200, 0.9)],
    ids=["zeros", "negative", "no score", "unsure", "None", "not a number", "off the picture"],
)  # fmt: skip
def test_a_point_that_is_missing_in_any_convention_is_missing(written):
    person = flat(OPENPOSE, (640, 480), left_wrist=written)
    ((points,),) = read([frame(person, width=640, height=480)])
    assert torch.allclose(points, expected("left wrist"), atol=1e-6)


def test_persons_without_points_are_left_out():
    zeros = [0.0] * 54
    ((points,),) = read([frame(None, flat(OPENPOSE), [], zeros)])
    assert torch.allclose(points, expected(), atol=1e-6)


def test_each_frame_has_its_persons():
    one, two = frame(flat(OPENPOSE)), frame(flat(OPENPOSE), flat(COCO))
    assert [len(persons) for persons in read([one, frame(), two])] == [1, 0, 2]


def test_json_is_openposes_or_lists_of_points():
    listed = [[list(PLACES[name]) for name in COCO]]
    for text in (
        json.dumps(frame(flat(OPENPOSE))),
        json.dumps([frame(flat(COCO))]),
        json.dumps(listed),
    ):
        ((points,),) = read(None, text)
        assert torch.allclose(points, expected(), atol=1e-6)


@pytest.mark.parametrize(
    "value, text, told",
    [
        (None, "  ", "connect a pose"),
        (None, '{"people": [', r"line 1, column 13: .* a list of people, each a list of points"),
        (None, "[[[0,5, 0,1]]", "line 1, column"),
        (None, '{"persons": [[]]}', '"people" is missing. It has: persons'),
        (
            None,
            '{"people": [{"points": [1, 2]}]}',
            'person 1: "pose_keypoints_2d" is missing.*points',
        ),
        (None, json.dumps([[[0.5, 0.5]] * 16]), "person 1: it has 16 points; expected 17"),
        (None, json.dumps([[[50, 40]] * 17]), "reach up to 50, so they are no fractions"),
        ([frame()], "", "no person in it"),
        ([frame([0.0] * 54)], "", "no person in it"),
        ([frame([0.5] * 12)], "", r"person 1: it has 12 numbers; expected 17 \(COCO\), 18"),
        ([frame(*[flat(OPENPOSE)] * 9)], "", "there are 9 people, and GLIGEN grounds at most 8"),
        ([frame(flat(OPENPOSE, (640, 480)))], "", "no fractions, and canvas_width"),
        ([frame(7)], "", "person 1: expected a list of points, got int"),
        ({"people": 7}, "", "expected a list of people, got int"),
    ],
)
def test_a_pose_that_cannot_be_used_is_refused_with_the_reason(value, text, told):
    with pytest.raises(GligenError, match=told):
        poses(value, text, 0.3)


@pytest.mark.parametrize("size", [2, 3])
def test_one_person_needs_no_list_around_it(size):
    points = [[*PLACES[name], 1.0][:size] for name in COCO]
    flat_numbers = [value for point in points for value in (*point, 1.0)[:3]]
    for one in (points, flat_numbers):
        ((found,),) = read(None, json.dumps(one))
        assert torch.allclose(found, expected(), atol=1e-6)
    with pytest.raises(GligenError, match="person 1: it has 16 points") as error:
        poses(None, json.dumps(points[:16]), 0.3)
    assert "person 2" not in str(error.value)


def test_all_that_is_wrong_with_a_pose_is_told_at_once_with_its_frame():
    bad = [frame([1.0] * 5), frame(flat(OPENPOSE)), frame(flat(OPENPOSE), [1.0] * 7)]
    with pytest.raises(GligenError) as error:
        poses(bad, "", 0.3)
    assert "Frame 1: person 1" in str(error.value) and "Frame 3: person 2" in str(error.value)


def test_the_authors_example_of_two_people_reads_as_they_wrote_it():
    man = [[0.7598, 0.2542], [0.7431, 0.2104], [0.8118, 0.2021], [0.0, 0.0], [0.9514, 0.1813],
           [0.7806, 0.2917], *[[0.0, 0.0]] * 11]  # fmt: skip
    ((points,),) = read(None, json.dumps([man]))
    assert torch.allclose(points, torch.tensor(man))
