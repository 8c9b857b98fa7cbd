"""Places that a user gives: boxes by their corners or size, and those that cannot be used."""

import math

import pytest
from gligen_pack.gligen_ops.entity import Box, PhraseBox, check_boxes
from gligen_pack.gligen_ops.errors import GligenError

GOOD = Box(0.1, 0.2, 0.4, 0.9)


def test_a_box_of_a_size_is_as_wide_and_high_as_it_says():
    assert Box.from_size(0.125, 0.25, 0.5, 0.0625) == Box(0.125, 0.25, 0.625, 0.3125)


@pytest.mark.parametrize("corner", ["x0", "y0", "x1", "y1"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_each_corner_has_to_be_a_finite_number(corner, value):
    assert "not a finite number" in Box(**{**vars(GOOD), corner: value}).problem()


@pytest.mark.parametrize(
    "box",
    [
        Box(0.6, 0.1, 0.5, 0.9),
        Box(0.5, 0.1, 0.5, 0.9),
        Box(0.1, 0.6, 0.9, 0.5),
        Box(0.1, 0.5, 0.9, 0.5),
    ],
)
def test_a_box_without_width_or_without_height_is_refused(box):
    assert box.problem() == "its width and height must be above 0"


@pytest.mark.parametrize(
    "box",
    [
        Box(-0.01, 0.2, 0.4, 0.9),
        Box(0.1, -0.01, 0.4, 0.9),
        Box(0.1, 0.2, 1.01, 0.9),
        Box(0.1, 0.2, 0.4, 1.01),
        Box(0.1, 0.2, 0.4, 1.00011),
    ],
)
def test_a_box_that_leaves_the_image_on_any_side_is_told_how_far_it_reaches(box):
    told = f"it reaches from {box.x0:.3g} to {box.x1:.3g} in x and from {box.y0:.3g} to {box.y1:.3g} in y"
    assert box.problem().startswith(told)


@pytest.mark.parametrize("side", [(0.7000000000000002, 0.3), (0.58, 0.42 + 5e-5), (-5e-5, 0.5)])
def test_a_box_that_fills_the_image_up_to_rounding_is_taken(side):
    start, length = side
    assert start + length > 1 or start < 0
    for box in (Box.from_size(start, 0.1, length, 0.5), Box.from_size(0.1, start, 0.5, length)):
        assert check_boxes([PhraseBox("a", box)]) == [PhraseBox("a", box)]


def test_all_bad_boxes_are_told_in_one_message_each_with_its_number_and_text():
    bad, flat = Box(0, 0.5, 2, 0.75), Box(0.1, 0.5, 0.2, 0.5)
    boxes = [(" a ", bad), ("b", GOOD), (" ", GOOD), ("c", flat), ("", bad)]
    with pytest.raises(GligenError) as error:
        check_boxes([PhraseBox(*box) for box in boxes])
    first, *others = str(error.value).splitlines()
    assert first.startswith("Box 1 (a): it reaches from 0 to 2 in x and from 0.5 to 0.75 in y")
    assert others == [
        "Box 3: its text is empty.",
        "Box 4 (c): its width and height must be above 0.",
        "Box 5: its text is empty.",
    ]
