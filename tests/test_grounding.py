"""Boxes on their way into a conditioning, and what is refused there."""

import math

import pytest
import small
import torch
from gligen_pack.gligen_ops.entity import Box, PhraseBox, check_boxes
from gligen_pack.gligen_ops.errors import GligenError


@pytest.mark.parametrize(
    "box, reason",
    [
        (Box(0.5, 0.0, 1.2, 0.5), "outside of the image"),
        (Box(-0.1, 0.0, 0.5, 0.5), "outside of the image"),
        (Box(0.6, 0.0, 0.5, 0.5), "width and height must be above 0"),
        (Box(0.5, 0.2, 0.5, 0.5), "width and height must be above 0"),
        (Box(0.0, 0.0, math.nan, 0.5), "not a finite number"),
        (Box(0.0, 0.0, math.inf, 0.5), "not a finite number"),
    ],
)
def test_a_box_that_cannot_be_is_refused_with_the_reason(box, reason):
    with pytest.raises(GligenError, match=rf"Box 1 \(a ball\): .*{reason}"):
        check_boxes([PhraseBox("a ball", box)])


def test_all_bad_boxes_are_told_in_one_message():
    good, bad = Box(0, 0, 1, 1), Box(0, 0, 2, 2)
    with pytest.raises(GligenError) as error:
        check_boxes([PhraseBox("a", bad), PhraseBox("b", good), PhraseBox(" ", good)])
    assert str(error.value).splitlines()[0].startswith("Box 1 (a): it reaches from 0 to 2 in x")
    assert str(error.value).splitlines()[1] == "Box 3: its text is empty."


def test_a_box_that_fills_the_image_up_to_rounding_is_taken():
    boxes = [PhraseBox("a", Box.from_size(0.66667, 0.66667, 0.33334, 0.33334))]
    assert check_boxes(boxes) == boxes


@pytest.fixture(scope="module")
def gligen(pack):
    from gligen_pack.gligen_ops.model import Block

    tensors = small.gligen_tensors({Block("middle", 0, 0): 32})
    return small.gligen(tensors)


def ground(gligen, count, conditioning=None, clip=None):
    from gligen_pack.nodes.grounding import ground_boxes

    boxes = [PhraseBox(f"thing {n}", Box(0, 0, 0.5, 0.5)) for n in range(count)]
    return ground_boxes(
        conditioning or small.conditioning(1), gligen, clip or small.Clip(), [boxes]
    )


def test_boxes_chain_and_the_conditioning_before_stays_as_it_was(gligen):
    start = small.conditioning(1, pooled_output=torch.zeros(1, 768))
    first = ground(gligen, 2, start)
    second = ground(gligen, 1, first)
    assert (
        "gligen" not in start[0][1]
        and second[0][1]["pooled_output"] is start[0][1]["pooled_output"]
    )
    assert [e.at(0).phrase for e in first[0][1]["gligen"][2]] == ["thing 0", "thing 1"]
    assert [e.at(0).phrase for e in second[0][1]["gligen"][2]] == ["thing 0", "thing 1", "thing 0"]


def test_more_boxes_than_the_model_has_slots_are_refused_also_when_chained(gligen):
    full = ground(gligen, 30)
    for too_many in (lambda: ground(gligen, 31), lambda: ground(gligen, 1, full)):
        with pytest.raises(GligenError, match="at most 30 entities.* 31. Remove 1"):
            too_many()


def test_a_clip_of_another_width_is_refused(gligen):
    with pytest.raises(GligenError, match="clip: .* 1024 wide.* trained with 768"):
        ground(gligen, 1, clip=small.Clip(1024))


def test_what_is_no_gligen_is_refused(gligen):
    from types import SimpleNamespace

    with pytest.raises(GligenError, match="gligen: came a Linear.*GLIGEN Model Loader"):
        ground(SimpleNamespace(model=torch.nn.Linear(1, 1)), 1)


def test_boxes_are_read_back_with_their_phrases_each_once(gligen):
    from gligen_pack.nodes.grounding import boxes_of

    grounded = ground(gligen, 2)
    boxes = boxes_of([*grounded, *grounded], 512, 768)
    assert [b.phrase for b in boxes] == ["thing 0", "thing 1"]
    assert boxes[0].box == Box(0, 0, 0.5, 0.5)
