"""Boxes on their way into a conditioning, and what is refused there."""

import json

import pytest
import small
import torch
from gligen_pack.gligen_ops.entities import PhraseBox
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.places import Box

OVER_THE_EDGE = [
    ((0.667, 0.2, 0.334, 0.3), Box(0.667, 0.2, 1, 0.5)),
    ((0.2, 0.75, 0.3, 0.3), Box(0.2, 0.75, 0.5, 1)),
    ((-0.05, -0.02, 1.1, 1.04), Box(0, 0, 1, 1)),
]


@pytest.mark.parametrize("size, expected", OVER_THE_EDGE)
def test_a_box_that_sticks_out_a_little_is_cut_wherever_it_comes_from(gligen, size, expected):
    """Typed in a box node or in Text Boxes, as a line or JSON, or linked in pixels."""
    from gligen_pack.nodes.text_box import GligenTextBox
    from gligen_pack.nodes.text_boxes import GligenTextBoxes

    start, clip = small.conditioning(1), small.Clip()

    def text_boxes(text, boxes=None):
        return GligenTextBoxes.execute(start, gligen, clip, text, 1000, 1000, boxes)

    line = "a ball: {}, {}, {}, {}".format(*size)
    link = dict(zip(("x", "y", "width", "height"), (1000 * v for v in size), strict=True))
    grounded = [
        GligenTextBox.execute(start, gligen, clip, "a ball", *size),
        text_boxes(line),
        text_boxes(json.dumps([{"phrase": "a ball", "box": size}])),
        text_boxes("", {**link, "label": "a ball"}),
    ]
    for output in grounded:
        box = small.entries(output.result[0])[0].at(0).box
        got, wanted = ((b.x0, b.y0, b.x1, b.y1) for b in (box, expected))
        assert got == pytest.approx(wanted) and min(got) >= 0 and max(got) <= 1


@pytest.fixture(scope="module")
def gligen(pack):
    from gligen_pack.gligen_ops.model import Block

    tensors = small.gligen_tensors({Block("middle", 0, 0): 32})
    return small.gligen(tensors)


def ground(gligen, count, conditioning=None, clip=None):
    from gligen_pack.nodes.encoders.phrases import ground_boxes

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
    assert [e.at(0).phrase for e in small.entries(first)] == ["thing 0", "thing 1"]
    assert [e.at(0).phrase for e in small.entries(second)] == ["thing 0", "thing 1", "thing 0"]


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


def test_boxes_are_read_back_with_their_phrases(gligen):
    from gligen_pack.nodes.seam.conditioning import entities_in

    entities = list(entities_in(ground(gligen, 2), (96, 64), 0))
    assert [e.label() for e in entities] == ["thing 0", "thing 1"]
    assert entities[0].sketch().box == Box(0, 0, 0.5, 0.5)
