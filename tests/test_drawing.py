"""Drawing boxes with their phrases, and poses."""

import numpy as np
import pytest
import torch
from gligen_pack.gligen_ops.entities import PhraseBox, Pose
from gligen_pack.gligen_ops.places import Box
from gligen_pack.nodes.pictures.drawing import COLOURS, draw_boxes, draw_lines
from PIL import Image

CAT = PhraseBox("a cat", Box.from_size(0.1, 0.2, 0.3, 0.4))


def changed(before: Image.Image, after: Image.Image) -> set[tuple[int, int]]:
    assert before.size == after.size
    columns, rows = before.size
    return {
        (x, y)
        for y in range(rows)
        for x in range(columns)
        if before.getpixel((x, y)) != after.getpixel((x, y))
    }


@pytest.mark.parametrize("size", [(200, 200), (300, 120), (90, 260)])
def test_a_box_is_outlined_on_its_edges(size):
    before = Image.new("RGB", size, (128, 128, 128))
    after = draw_boxes(before, [PhraseBox("a cat", Box(0.2, 0.4, 0.6, 0.8))])
    left, top, right, bottom = (round(v * size[i % 2]) for i, v in enumerate((0.2, 0.4, 0.6, 0.8)))
    middle = (left + right) // 2, (top + bottom) // 2
    edges = [
        (left, middle[1]),
        (right - 1, middle[1]),
        (right - 1, top + 2),
        (middle[0], bottom - 1),
    ]
    assert [after.getpixel(edge) for edge in edges] == [COLOURS[0]] * 4
    assert after.getpixel(middle) == (128, 128, 128)
    assert before.getcolors() == [(size[0] * size[1], (128, 128, 128))]


@pytest.mark.parametrize(
    "box", [Box(0, 0, 1, 1), Box(0.95, 0, 1, 0.05), Box(0, 0.98, 0.02, 1), Box(0.9, 0.9, 1, 1)]
)
@pytest.mark.parametrize("phrase", ["a cat", "a very long phrase " * 20, "two\nlines"])
def test_a_label_stays_inside(box, phrase):
    before = Image.new("RGB", (160, 80), (128, 128, 128))
    after = draw_boxes(before, [PhraseBox(phrase, box)])
    tag = [p for p in changed(before, after) if after.getpixel(p) == COLOURS[0]]
    rows = {y for _, y in tag if sum(1 for _, other in tag if other == y) > 20}
    assert len(rows) >= 10


def test_labels_of_equal_boxes_do_not_cover_each_other():
    before = Image.new("RGB", (200, 200), (128, 128, 128))
    box = Box(0.2, 0.3, 0.8, 0.7)
    after = draw_boxes(before, [PhraseBox(p, box) for p in ("a cat", "a dog", "a bird")])
    counts = dict((colour, count) for count, colour in after.getcolors(40000))
    assert all(counts[colour] > 100 for colour in COLOURS[:3])


def test_tiny_boxes_tiny_pictures_and_many_boxes_are_drawn():
    speck = PhraseBox("a dot", Box(0.5, 0.5, 0.5001, 0.5001))
    before = Image.new("RGB", (64, 64), (128, 128, 128))
    assert draw_boxes(before, [speck]).getpixel((32, 32)) == COLOURS[0]
    assert draw_boxes(Image.new("RGB", (3, 2)), [speck, CAT]).size == (3, 2)
    assert draw_boxes(Image.new("L", (64, 64)), [CAT] * 30).mode == "RGB"
    assert draw_boxes(before, [PhraseBox("", CAT.box)]) == draw_boxes(
        before, [PhraseBox("box 1", CAT.box)]
    )
    assert changed(before, draw_boxes(before, [])) == set()


def test_a_pose_is_drawn_with_its_bones_and_without_what_is_missing():
    points = torch.zeros(17, 2)
    points[5], points[7] = torch.tensor([0.25, 0.5]), torch.tensor([0.75, 0.5])  # an upper arm
    drawn = np.asarray(draw_lines(Image.new("RGB", (200, 200)), [Pose(points).sketch()]))
    middle = drawn[100, 60:140]
    assert (middle == middle[0]).all() and middle[0].any()
    assert not drawn[:80].any() and not drawn[120:].any()
