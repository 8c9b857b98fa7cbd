"""The region that inpainting paints."""

from gligen_pack.gligen_ops.entities import Box
from gligen_pack.gligen_ops.masks import boxes_mask


def test_every_latent_pixel_that_a_box_reaches_into_is_painted_and_no_other():
    mask = boxes_mask([Box(0.3, 0.5, 0.6, 1.0)], (4, 8))[0]
    assert mask.tolist() == [[0] * 8, [0] * 8, *[[0, 0, 1, 1, 1, 0, 0, 0]] * 2]


def test_a_box_on_the_grid_is_painted_as_it_is_also_where_its_numbers_are_rounded():
    mask = boxes_mask([Box(0.25, 0.0, 0.25 + 0.1 + 0.4, 0.1 + 0.2 + 0.2)], (4, 8))[0]
    assert mask.tolist() == [*[[0, 0, 1, 1, 1, 1, 0, 0]] * 2, [0] * 8, [0] * 8]


def test_a_box_a_hair_outside_of_the_image_and_several_boxes():
    mask = boxes_mask([Box(-1e-4, -1e-4, 0.5, 0.5), Box(0.6, 0.6, 1.0001, 1.0001)], (4, 4))[0]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
