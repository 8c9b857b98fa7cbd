"""The region that inpainting paints."""

import math

import pytest
import torch
from gligen_pack.gligen_ops.masks import boxes_mask
from gligen_pack.gligen_ops.places import Box

WIDE = (5, 13)  # of latents: height, width
HIGH = (11, 6)


def touched(boxes, size):
    """Asked of each pixel by itself: has a box an inner point in it?"""
    height, width = size
    hair = 1e-3
    return [
        [
            int(
                any(
                    box.x0 * width < x + 1 - hair
                    and box.x1 * width > x + hair
                    and box.y0 * height < y + 1 - hair
                    and box.y1 * height > y + hair
                    for box in boxes
                )
            )
            for x in range(width)
        ]
        for y in range(height)
    ]


def test_every_latent_pixel_that_a_box_reaches_into_is_painted_and_no_other():
    mask = boxes_mask([Box(0.3, 0.5, 0.6, 1.0)], (4, 8))
    assert mask.shape == (1, 4, 8) and mask.dtype == torch.float32
    assert mask[0].tolist() == [[0] * 8, [0] * 8, *[[0, 0, 1, 1, 1, 0, 0, 0]] * 2]


@pytest.mark.parametrize("size", [WIDE, HIGH, (1, 9), (64, 64)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_boxes_of_any_place_are_painted_all_of_them_on_latents_of_any_sides(size, count):
    generator = torch.Generator().manual_seed(count)
    for _ in range(20):
        corners = torch.rand(count, 2, 2, generator=generator).sort(1).values
        boxes = [Box(x0, y0, x1, y1) for (x0, y0), (x1, y1) in corners.tolist()]
        assert boxes_mask(boxes, size)[0].tolist() == touched(boxes, size)


@pytest.mark.parametrize("order", [1, -1])
def test_no_box_takes_away_what_another_paints(order):
    boxes = [Box(0.0, 0.0, 2 / 13, 1.0), Box(6 / 13, 0.2, 8 / 13, 0.4), Box(0.0, 0.8, 1.0, 1.0)]
    row = [1, 1] + [0] * 11
    middle = [1, 1, 0, 0, 0, 0, 1, 1] + [0] * 5
    expected = [row, middle, row, row, [1] * 13]
    assert boxes_mask(boxes[::order], WIDE)[0].tolist() == expected


def test_no_boxes_paint_nothing():
    assert boxes_mask([], WIDE).shape == (1, 5, 13) and not boxes_mask([], WIDE).any()


def test_a_box_on_the_grid_is_painted_as_it_is_also_where_its_numbers_are_rounded():
    beyond, below = 0.1 + 0.2, 0.29
    assert beyond * 10 > 3 and below * 100 < 29
    mask = boxes_mask([Box(0.1, below, beyond, 0.1 + 0.2)], (100, 10))[0]
    expected = torch.zeros(100, 10)
    expected[29:30, 1:3] = 1
    assert torch.equal(mask, expected)
    mask = boxes_mask([Box(below, 0.1, beyond, beyond)], (10, 100))[0]
    expected = torch.zeros(10, 100)
    expected[1:3, 29:30] = 1
    assert torch.equal(mask, expected)


def test_what_a_box_reaches_into_by_more_than_rounding_is_painted():
    """By a hundredth of a latent pixel, and not by a ten thousandth."""
    for reach, width in ((0.01, 3), (0.0001, 1)):
        box = Box((4 - reach) / 13, 0.0, (5 + reach) / 13, 1.0)
        assert boxes_mask([box], WIDE).sum() == 5 * width


def test_a_box_a_hair_outside_of_the_image_is_painted_up_to_its_edges():
    hair = 1e-4
    for size in (WIDE, (128, 512)):
        half = boxes_mask([Box(-hair, -hair, 0.5, 1 + hair)], size)
        assert half.shape == (1, *size)
        assert half[0].tolist() == [[1] * math.ceil(size[1] / 2) + [0] * (size[1] // 2)] * size[0]
        assert boxes_mask([Box(-hair, -hair, 1 + hair, 1 + hair)], (20000, 3)).all()
