"""Maps of any size, held against what the authors do: the middle square, brought to 512 × 512 by PIL."""

import numpy as np
import pytest
import small
import torch
from gligen_pack.gligen_ops.entities import Inpainting, SpatialMap
from gligen_pack.gligen_ops.layers.first_conv import Downsampler, Edges
from gligen_pack.gligen_ops.places import Box
from gligen_pack.gligen_ops.tokenizers.maps import MapTokenizer
from PIL import Image

SIDE = 512
SIZES = [(768, 768), (1024, 1024), (800, 600), (400, 600)]
"""Width and height."""


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def soft(width, height):
    """Something like depth or soft edges, as a picture of bytes."""
    y, x = np.mgrid[:height, :width] / min(width, height)
    wave = np.sin(9 * x + 4 * y) + np.sin(23 * x * y) + (np.hypot(x - 0.5, y - 0.4) < 0.3)
    return np.uint8(255 * (wave - wave.min()) / np.ptp(wave))


def lines(width, height):
    """Canny's lines, a pixel wide, as many for a picture of any size."""
    values = soft(width, height) // 40
    edge = np.zeros_like(values)
    edge[:, 1:] |= np.uint8(255) * (values[:, 1:] != values[:, :-1])
    edge[1:] |= np.uint8(255) * (values[1:] != values[:-1])
    return edge


def of_bytes(picture):
    tensor = torch.from_numpy(np.asarray(picture).astype(np.float32)) / 127.5 - 1
    return SpatialMap(tensor.expand(3, *tensor.shape[-2:]))


def by_pil(picture, resample=Image.Resampling.BICUBIC):
    height, width = picture.shape
    crop = min(width, height)
    left, top = (width - crop) // 2, (height - crop) // 2
    image = Image.fromarray(picture).crop((left, top, left + crop, top + crop))
    return image.resize((SIDE, SIDE), resample)


@pytest.fixture(scope="module")
def tokenizer():
    made = small.randomise(MapTokenizer(64, 48, 196), seed=4).requires_grad_(False)
    for name, weight in made.named_parameters():
        if "layer_scale" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return made


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("draw", [soft, lines])
def test_tokens_and_channels_are_those_of_the_authors_resize(tokenizer, size, draw):
    picture = draw(*size)
    expected, got = of_bytes(by_pil(picture)), of_bytes(picture).fitted((64, 64), tokenizer.side)
    assert tokenizer.side == SIDE and got.picture.shape == (3, SIDE, SIDE)
    tokens = [tokenizer(*tokenizer.inputs([e])) for e in (expected, got)]
    assert relative(tokens[1], tokens[0]) < 0.02
    for made in (Edges(), small.randomise(Downsampler(1), seed=2).requires_grad_(False)):
        channels = [made(e, (64, 64)) for e in (expected, got)]
        assert relative(channels[1], channels[0]) < 0.02


@pytest.mark.parametrize("size", SIZES)
def test_classes_are_taken_from_the_nearest_pixel_and_stay_one_a_place(size):
    classes = soft(*size) // 64
    expected = torch.from_numpy(np.asarray(by_pil(classes, Image.Resampling.NEAREST)).astype(int))
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(classes.astype(int)), 4).movedim(-1, 0)
    got = SpatialMap(one_hot.float(), has_classes=True).fitted((64, 64), SIDE).picture
    assert torch.equal(got.sum(0), torch.ones(SIDE, SIDE))
    assert (got.argmax(0) == expected).float().mean() > 0.995


def test_a_map_in_the_aspect_of_the_latent_is_used_whole_and_any_other_by_its_middle():
    picture = torch.zeros(1, 300, 400)
    picture[:, :, 100:300] = 1  # the middle half
    whole = SpatialMap(picture).fitted((48, 64), 128).picture
    assert whole[0, 64].gt(0.5).float().mean() == pytest.approx(0.5, abs=0.02)
    square = SpatialMap(picture).fitted((64, 64), 128).picture
    assert square[0, 64].gt(0.5).float().mean() == pytest.approx(200 / 300, abs=0.02)
    wide = SpatialMap(picture.mT).fitted((32, 64), 128).picture  # cut above and below
    assert wide[0, :, 64].gt(0.5).all()


def test_a_region_of_a_map_is_that_part_of_it():
    picture = torch.arange(60.0).reshape(1, 6, 10)
    part = SpatialMap(picture).within(Box(0.2, 0.5, 0.7, 1.0)).picture
    assert torch.equal(part, picture[:, 3:, 2:7])


def test_what_is_known_of_a_picture_follows_the_latent_and_thin_and_soft_masks_are_painted():
    known, mask = torch.randn(1, 4, 6, 10), torch.ones(1, 1, 48, 80)
    mask[..., 17:19, :] = 0  # a line two pixels wide
    mask[..., :, 70:] = 0.55
    fitted = Inpainting(known, mask).fitted((6, 10), None)
    assert torch.equal(fitted.known, known)
    painted = torch.zeros(6, 10)
    painted[2], painted[:, 8:] = 1, 1
    assert torch.equal(fitted.mask[0, 0], 1 - painted)
    larger = Inpainting(known, mask).fitted((12, 30), None)
    assert larger.known.shape == (1, 4, 12, 30) and larger.mask.shape == (1, 1, 12, 30)
