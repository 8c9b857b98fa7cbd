"""Places that a user gives: boxes by their corners or size, and those that cannot be used."""

import math

import pytest
from gligen_pack.gligen_ops.entities import PhraseBox
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.places import Box
from gligen_pack.nodes.layouts.boxes import check_boxes

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


@pytest.mark.parametrize(
    "box, reason",
    [
        (Box(0.5, 0.0, 1.2, 0.5), "outside of the image"),
        (Box(-0.1, 0.0, 0.5, 0.5), "outside of the image"),
        (Box(0.0, 0.0, 1.0502, 0.5), "to 1.0502 in x .*outside of the image"),
        (Box(0.0, -0.0502, 0.5, 0.5), "from -0.0502 to 0.5 in y, outside of the image"),
        (Box(1.0, 0.0, 1.02, 0.5), "from 1 to 1.02 in x .*outside of the image"),
        (Box(0.2, -0.03, 0.5, 0.0), "from -0.03 to 0 in y, outside of the image"),
        (Box(0.6, 0.0, 0.5, 0.5), "width and height must be above 0"),
        (Box(0.5, 0.2, 0.5, 0.5), "width and height must be above 0"),
        (Box(0.0, 0.0, math.nan, 0.5), "not a finite number"),
        (Box(0.0, 0.0, math.inf, 0.5), "not a finite number"),
    ],
)
def test_a_box_that_cannot_be_is_refused_with_the_reason(box, reason):
    with pytest.raises(GligenError, match=rf"Box 1 \(a ball\): .*{reason}"):
        check_boxes([PhraseBox("a ball", box)])


@pytest.mark.parametrize(
    "start, length", [(0.7, 0.3), (0.58, 0.42005), (-5e-5, 0.5), (0.9, 0.1499)]
)
def test_what_of_a_box_is_over_the_edge_is_cut(start, length):
    boxes = [Box.from_size(start, 0.1, length, 0.5), Box.from_size(0.1, start, 0.5, length)]
    x, y = (b.box for b in check_boxes([PhraseBox("a", box) for box in boxes]))
    expected = max(start, 0.0), min(start + length, 1.0)
    assert (x.x0, x.x1) == expected and (y.y0, y.y1) == expected
    assert (x.y0, x.y1) == (0.1, 0.6) and (y.x0, y.x1) == (0.1, 0.6)


def test_pixels_begin_at_the_pictures_edge_where_a_box_sticks_out():
    assert Box(-0.2, -0.3, 0.5, 0.6).pixels(10, 20) == (slice(0, 6), slice(0, 10))
