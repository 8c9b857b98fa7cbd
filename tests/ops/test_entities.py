"""What entities answer: which part of them lies in a region, how they are called and drawn."""

from itertools import pairwise

import pytest
import torch
from gligen_pack.gligen_ops.entities import BONES, BoxEntity, Inpainting, Pose, SpatialMap
from gligen_pack.gligen_ops.places import WHOLE, Box

REGION = Box(0.25, 0.5, 0.75, 0.75)


def pose(*points):
    found = torch.zeros(17, 2)
    found[: len(points)] = torch.tensor(points)
    return Pose(found)


ENTITIES = [
    BoxEntity(Box(0.1, 0.2, 0.4, 0.9), "a cat"),
    pose((0.3, 0.6), (0.9, 0.1)),
    SpatialMap(torch.rand(3, 6, 10)),
    Inpainting(torch.rand(1, 4, 6, 10), torch.ones(1, 1, 6, 10)),
]


@pytest.mark.parametrize("entity", ENTITIES, ids=lambda e: type(e).__name__)
def test_the_whole_picture_leaves_an_entity_as_it_is(entity):
    assert entity.within(WHOLE) is entity


@pytest.mark.parametrize(
    "box, expected",
    [
        (Box(0.25, 0.5, 0.75, 0.75), WHOLE),
        (Box(0.0, 0.5, 0.5, 0.75), Box(0.0, 0.0, 0.5, 1.0)),
        (Box(0.5, 0.4, 0.9, 0.7), Box(0.5, 0.0, 1.0, 0.8)),
        (Box(0.3, 0.0, 0.5, 0.55), None),  # an eleventh of it
        (Box(0.0, 0.0, 0.2, 0.2), None),
        (Box(0.75, 0.5, 0.9, 0.7), None),  # its edge alone
        (Box(0.0, 0.5, 0.28, 0.75), None),  # a ninth of it
        (Box(0.2, 0.5, 0.28, 0.75), Box(0.0, 0.0, 0.06, 1.0)),  # more than a third
    ],
)
def test_a_box_is_cut_to_a_region_where_enough_of_it_lies_there(box, expected):
    found = BoxEntity(box, "a cat").within(REGION)
    assert (found and found.box) == expected
    assert found is None or found.phrase == "a cat"


def test_points_of_a_pose_outside_of_a_region_are_missing_there():
    found = pose((0.5, 0.625), (0.9, 0.6), (0.25, 0.75)).within(REGION)
    assert found.points[:3].tolist() == [[0.5, 0.5], [0.0, 0.0], [0.0, 1.0]]
    assert pose((0.1, 0.1)).within(REGION) is None


def test_places_in_an_area_are_placed_in_the_picture():
    assert BoxEntity(Box(0.5, 0.0, 1.0, 0.4)).placed_in(REGION).box == Box(0.5, 0.5, 0.75, 0.6)
    points = pose((0.5, 0.4)).placed_in(REGION).points
    assert points[0].tolist() == pytest.approx([0.5, 0.6]) and not points[1:].any()


def test_a_style_belongs_to_every_region():
    style = BoxEntity(Box(0.0, 1.0, 0.0, 1.0), "style")
    assert style.within(REGION) is style and style.placed_in(REGION) is style
    assert style.sketch().box is None


def test_entities_are_drawn_by_their_places():
    assert BoxEntity(REGION, "a cat").label() == "a cat"
    assert BoxEntity(REGION, "a cat").sketch().box == REGION
    drawn = pose(*[(0.1 + 0.05 * i, 0.2) for i in range(7)]).sketch()
    assert len(drawn.dots) == 7 and drawn.dots[6] == pytest.approx((0.4, 0.2))
    assert [(round(a[0], 2), round(b[0], 2)) for a, b in drawn.lines] == [
        (0.1, 0.15), (0.1, 0.2), (0.15, 0.25), (0.2, 0.3), (0.35, 0.4)
    ]  # fmt: skip
    assert SpatialMap(torch.rand(3, 2, 2)).sketch() == (None, (), ())


def test_a_skeleton_joins_what_is_joined_in_a_body():
    names = [
        "nose", *(f"{side} {part}" for part in
        ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right"))
    ]  # fmt: skip
    joined = {frozenset((names[a], names[b])) for a, b in BONES}
    chains = [
        *(("nose", f"{s} eye", f"{s} ear") for s in ("left", "right")),
        *((f"{s} shoulder", f"{s} elbow", f"{s} wrist") for s in ("left", "right")),
        *((f"{s} shoulder", f"{s} hip", f"{s} knee", f"{s} ankle") for s in ("left", "right")),
        ("left shoulder", "right shoulder"),
        ("left hip", "right hip"),
    ]
    assert joined == {frozenset(pair) for chain in chains for pair in pairwise(chain)}


def test_regions_and_areas_are_each_others_inverse():
    box = Box(0.31, 0.52, 0.66, 0.7)
    back = box.relative_to(REGION).placed_in(REGION)
    assert [back.x0, back.y0, back.x1, back.y1] == pytest.approx([0.31, 0.52, 0.66, 0.7], abs=1e-5)
    assert box.relative_to(WHOLE) is box and box.placed_in(WHOLE) is box


@pytest.mark.parametrize("region", [(-0.5, 0, 0, 1), (1, 0, 2, 1), (0, -1, 1, 0), (0, 1, 1, 1.5)])
def test_of_a_map_or_a_picture_nothing_lies_in_a_region_beside_it(region):
    assert SpatialMap(torch.rand(3, 40, 60)).within(Box(*region)) is None
    known = Inpainting(torch.rand(1, 4, 5, 7), torch.ones(1, 1, 5, 7))
    assert known.within(Box(*region)) is None
