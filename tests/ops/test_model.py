"""Blocks of a UNet, and sizes that tensors decide."""

from types import SimpleNamespace

import pytest
import torch
from gligen_pack.gligen_ops.model import Block, Gligen, blocks_of
from gligen_pack.gligen_ops.shapes import Sizes, fits


def transformer(width, depth):
    """Of Stable Diffusion's structure; queries of a width of their own."""
    attention = SimpleNamespace(to_q=torch.nn.Linear(width, 2 * width))
    return SimpleNamespace(transformer_blocks=[SimpleNamespace(attn1=attention)] * depth)


CONVOLUTION = SimpleNamespace()


def unet(middle=True):
    return SimpleNamespace(
        input_blocks=[
            [CONVOLUTION],
            [CONVOLUTION, transformer(8, 1)],
            [CONVOLUTION],
            [CONVOLUTION, transformer(16, 3)],
        ],
        middle_block=[CONVOLUTION, transformer(24, 2), CONVOLUTION] if middle else None,
        output_blocks=[[CONVOLUTION, transformer(32, 1)], [CONVOLUTION]],
    )


def test_blocks_of_a_unet_are_told_by_side_number_and_index_in_the_order_they_run():
    assert list(blocks_of(unet()).items()) == [
        (Block("input", 1, 0), 8),
        *((Block("input", 3, index), 16) for index in range(3)),
        *((Block("middle", 0, index), 24) for index in range(2)),
        (Block("output", 0, 0), 32),
    ]


@pytest.mark.parametrize("middle", [True, False])
def test_blocks_are_told_by_the_order_of_their_transformers_alone(middle):
    expected = [(0, 0, 8), *((1, index, 16) for index in range(3))]
    expected += [(2, index, 24) for index in range(2)] if middle else []
    expected += [(3 if middle else 2, 0, 32)]
    assert list(blocks_of(unet(middle), by_order=True).items()) == [
        (Block("transformer", number, index), width) for number, index, width in expected
    ]


def test_each_block_has_a_gated_layer_of_its_own_and_its_width():
    widths = {Block("input", 1, 0): 8, Block("output", 1, 0): 16, Block("input", 1, 10): 24}
    gligen = Gligen(torch.nn.Identity(), 12, widths)
    assert {block: gligen.layer(block).linear.weight.shape for block in widths} == {
        block: (width, 12) for block, width in widths.items()
    }
    assert gligen.widths == widths


def test_a_blocks_key_is_its_place_in_the_authors_files():
    assert [
        Block(*place).key for place in (("input", 4, 1), ("middle", 0, 2), ("output", 11, 0))
    ] == [
        "input_blocks.4.1.transformer_blocks.1.fuser",
        "middle_block.1.transformer_blocks.2.fuser",
        "output_blocks.11.1.transformer_blocks.0.fuser",
    ]


def test_a_tensor_fits_by_its_numbers_and_by_sizes_above_0():
    axes = ("width", 9, "height")
    assert fits((3, 9, 7), axes)
    assert not any(fits(shape, axes) for shape in [(3, 8, 7), (0, 9, 7), (3, 9), (3, 9, 7, 1), ()])


@pytest.mark.parametrize("shape", [None, (), (3, 5), (2, 5, 7), (1, 0, 7)])
def test_a_size_is_read_from_the_tensor_that_decides_it_or_told_to_be_unread(shape):
    axes = (1, "tokens", "width")
    sizes = Sizes({"a": (1, 5, 7)})
    assert sizes.read("a", axes) == {"tokens": 5, "width": 7} and not sizes.unread
    sizes = Sizes({} if shape is None else {"a": shape})
    assert sizes.read("a", axes).keys() == {"tokens", "width"}
    assert sizes.unread == {"a": axes}
