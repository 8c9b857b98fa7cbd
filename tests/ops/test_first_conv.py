"""The first convolution and what it takes beside the latent, against the formulas in float64."""

import pytest
import reference
import small
import torch
from gligen_pack.gligen_ops import tokenizers  # noqa: F401  (declares the kinds)
from gligen_pack.gligen_ops.entities import Inpainting, SpatialMap
from gligen_pack.gligen_ops.kinds import KINDS
from gligen_pack.gligen_ops.layers.first_conv import FirstConv
from reference import relative
from torch.nn import functional as F

KIND = {kind.name: kind for kind in KINDS}
CHANNELS = {"canny map": 3, "depth map": 3, "normal map": 3, "semantic map": 152}
SIZES = [(64, 64), (64, 96), (40, 24)]


def make(name):
    torch.manual_seed(1)
    conv = FirstConv(16, KIND[name].extra(operations=torch.nn))
    return small.randomise(conv, seed=2).requires_grad_(False)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_are_downsampled_as_the_authors_do_onto_latents_of_any_sides(name, size):
    first_conv = make(name)
    picture = torch.rand(CHANNELS[name], 150, 250) * 2 - 1
    state = {k: v.double() for k, v in first_conv.state_dict().items()}
    mode = "nearest" if name == "semantic map" else "bicubic"
    seen = picture[:1] if name in ("canny map", "depth map") else picture
    expected = reference.downsampled(state, seen[None].double(), mode, size)
    extra = first_conv.extra(SpatialMap(picture), size)
    assert extra.shape == (1, 8, *size)
    assert relative(extra, expected) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_soft_edges_are_resized_to_the_latent(size):
    picture = torch.rand(3, 200, 300)
    extra = make("hed map").extra(SpatialMap(picture), size)
    expected = F.interpolate(picture[None, :1].double(), size, mode="bicubic")
    assert extra.shape == (1, 1, *size)
    assert relative(extra, expected) < 1e-5


def test_soft_edges_have_no_weights():
    assert make("hed map").state_dict().keys() == {"conv.weight", "conv.bias"}


@pytest.mark.parametrize("name", ["text box inpainting", "text and image box inpainting"])
def test_inpainting_is_told_what_is_known_and_where(name):
    known, mask = torch.randn(1, 4, 24, 40), torch.zeros(1, 1, 24, 40)
    mask[..., 3:20, :10] = 1
    extra = make(name).extra(Inpainting(known, mask), (24, 40))
    assert torch.equal(extra[:, :4], known * mask)
    assert torch.equal(extra[:, 4:], mask)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_convolution_is_over_the_latent_and_then_the_extra_channels(batch):
    first_conv = make("canny map")
    x, extra = torch.randn(3, 4, 24, 40), torch.randn(batch, 8, 24, 40)
    weight, bias = first_conv.conv.weight.double(), first_conv.conv.bias.double()
    both = torch.cat([x, extra.expand(3, -1, -1, -1)], dim=1).double()
    expected = F.conv2d(both, weight, bias, padding=1)
    out = first_conv(x, extra)
    assert out.shape == (3, 16, 24, 40)
    assert relative(out, expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("others", [torch.float16, torch.float32, torch.float64])
def test_the_extra_channels_follow_the_latents_dtype(dtype, others):
    """Either may be the wider one."""
    first_conv = make("hed map").to(dtype)
    seen = []
    first_conv.conv.register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    x, extra = torch.randn(2, 4, 8, 6), torch.randn(1, 1, 8, 6)
    out = first_conv(x.to(dtype), extra.to(others))
    assert seen == [dtype] and out.dtype == dtype
    expected = make("hed map")(x, extra)
    assert relative(out, expected) < 0.02
