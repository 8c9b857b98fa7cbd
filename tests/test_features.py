"""What a grounding is made of: a phrase's feature, a class's colour, a map's values, and each kind of
gated layer in the host, against references by hand."""

import hashlib

import pytest
import reference
import small
import torch
from rig import calls_of, gated_layers, picture, relative, tensors_of, tokens_in
from torch.nn import Conv2d

BOX = 0.1, 0.2, 0.6, 0.4


@pytest.fixture(scope="module")
def demo(rig):
    """The demo model's CLIP, of the host's own class for SD 1.x."""
    return rig.node("GligenDemoModel")[1]


def test_the_feature_of_a_phrase_is_the_hosts_pooled_output_before_its_projection(demo, rig):
    """The host's CLIP of SD 1.x, told to project as those of newer models do."""
    clip = demo
    phrase = "a red star"
    model = clip.cond_stage_model.clip_l
    model.options_default = (*model.options_default[:2], True)
    expected = clip.encode_from_tokens(clip.tokenize(phrase), return_pooled="unprojected")[1]
    projected = clip.encode_from_tokens(clip.tokenize(phrase), return_pooled=True)[1]
    assert relative(projected, expected) > 0.1
    small_gligen = small.gligen(small.gligen_tensors(widths(rig), 768, expected.shape[-1]))
    places = dict(zip(("x", "y", "width", "height"), BOX, strict=True))
    (grounded,) = rig.node(
        "GligenTextBox", conditioning=rig.prompt, gligen=small_gligen, clip=clip, text=phrase,
        **places,
    )  # fmt: skip
    boxes, features, mask = torch.zeros(1, 30, 4), torch.zeros(1, 30, 64), torch.zeros(1, 30)
    boxes[0, 0], features[0, 0] = torch.tensor([0.1, 0.2, 0.7, 0.6]), expected[0]
    mask[0, 0] = 1
    tokens = reference.box_tokens(
        tensors_of(small_gligen, "position_net."), *(t.double() for t in (boxes, mask, features))
    )
    assert relative(tokens_in(rig, small_gligen, grounded)[:, :1], tokens[:, :1]) < 1e-5


def widths(rig):
    from gligen_pack.gligen_ops.model import blocks_of

    return blocks_of(rig.unet)


ADE20K = {
    1: (120, 120, 120),  # wall
    2: (180, 120, 120),  # building
    3: (6, 230, 230),  # sky
    4: (80, 50, 50),  # floor
    5: (4, 200, 3),  # tree
    6: (120, 120, 80),  # ceiling
    7: (140, 140, 140),  # road
    8: (204, 5, 255),  # bed
    9: (230, 230, 230),  # windowpane
    10: (4, 250, 7),  # grass
    13: (150, 5, 61),  # person
    21: (0, 102, 200),  # car
    22: (61, 230, 250),  # water
    27: (9, 7, 230),  # sea
    44: (255, 5, 153),  # signboard
    67: (255, 0, 0),  # flower
    91: (0, 255, 82),  # airplane
    127: (255, 0, 122),  # bicycle
    150: (92, 0, 255),  # flag
    0: (0, 0, 0),  # anything else
}
"""Of the colours by class, as the dataset's own tools have them."""
ALL_COLOURS = "ce475c9151035eff51f4cf27fd7d906959b1480f6d15b9423ae2417c1b23a0ed"
"""SHA-256 of all 150, three bytes each in the order of the classes, made of mmsegmentation's list."""


class Seen(Exception):
    """Ends a run as soon as it has shown what was asked for."""


def classes_in(rig, image, reading):
    """The classes that the tokenizer's first layer is given, as [H, W]."""

    def stop(_, inputs):
        raise Seen(inputs[0])

    modules = rig.gligen("semantic map").model.modules()
    (layer,) = [m for m in modules if isinstance(m, Conv2d) and m.out_channels == 3]
    hook = layer.register_forward_pre_hook(stop)
    try:
        with pytest.raises(Seen) as seen:
            rig.scheduled(rig.spatial_map(image, "semantic map", classes=reading))
    finally:
        hook.remove()
    (one_hot,) = seen.value.args
    assert set(one_hot.unique().tolist()) == {0.0, 1.0} and one_hot.shape[1] == 152
    return one_hot[0].argmax(0)


@pytest.mark.parametrize("reading", ["automatic", "palette"])
def test_colours_of_ade20k_become_their_classes(rig, reading):
    colours = torch.tensor(list(ADE20K.values())) / 255
    image = colours.reshape(1, 4, 5, 3).repeat_interleave(40, 1).repeat_interleave(64, 2)  # as wide
    classes = classes_in(rig, image, reading)
    rows, columns = (classes.shape[0] // 8, classes.shape[1] // 10)  # the middle of each field
    found = classes[rows :: 2 * rows][:4, columns :: 2 * columns][:, :5].flatten().tolist()
    assert found == list(ADE20K)


def test_grey_values_are_class_indices(rig):
    index = torch.tensor([0, 1, 12, 150]).repeat_interleave(32) / 255
    classes = classes_in(rig, index.reshape(1, 1, -1, 1).expand(1, 128, -1, 3), "automatic")
    quarter = classes.shape[1] // 4
    assert classes[0, quarter // 2 :: quarter].tolist() == [0, 1, 12, 150]


def test_the_table_of_colours_is_that_of_ade20k():
    from gligen_pack.nodes.pictures.ade20k import COLOURS

    assert COLOURS.shape == (150, 3)
    table = bytes(COLOURS.flatten().tolist())
    assert hashlib.sha256(table).hexdigest() == ALL_COLOURS


def test_a_colour_nearly_right_is_read_and_a_wrong_one_refused(rig):
    from gligen_pack.gligen_ops.errors import GligenError

    saved = (torch.tensor([7.0, 227.0, 233.0]) / 255).expand(1, 64, 64, 3)  # sky, in a JPEG
    assert classes_in(rig, saved, "palette").unique().tolist() == [3]
    with pytest.raises(GligenError, match="colours that ADE20K does not use"):
        rig.spatial_map(torch.full((1, 8, 8, 3), 0.25) * torch.tensor([1, 3, 2]), "semantic map")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_grey_a_coloured_and_a_transparent_map_of_the_same_are_the_same(rig, channels):
    grey = picture(3)[..., :1]
    image = torch.cat([grey.expand(*grey.shape[:-1], 3), torch.rand_like(grey)], -1)
    image = grey if channels == 1 else image[..., :channels]
    expected = rig.scheduled(rig.spatial_map(grey.expand(*grey.shape[:-1], 3)))
    assert torch.equal(rig.scheduled(rig.spatial_map(image)), expected)


def layer_by_hand(fuser):
    return {
        "gatedSA": reference.gated_self_attention,
        "gatedSA2": reference.gated_grid_attention,
        "gatedCA": reference.gated_cross_attention,
    }[fuser]


@pytest.mark.parametrize("size", [(8, 16), (24, 8)], ids=["wide", "tall"])
@pytest.mark.parametrize("fuser", ["gatedSA", "gatedSA2", "gatedCA"])
def test_each_fuser_is_in_the_host_what_it_is_by_hand(rig, fuser, size):
    """In every block, on latents that are no squares, positive and negative alike."""
    gligen = rig.gligen("depth map", fuser=fuser)
    positive = rig.spatial_map(picture(3), gligen=gligen)
    layers = gated_layers(gligen)
    with calls_of(*layers) as calls, calls_of(token_input(layers[0], fuser)) as inputs:
        rig.scheduled(positive, size=size, cfg=4.0)
    tokens = inputs[-1][0][0].double()
    assert len(calls) == len(layers) == 5 and len(tokens) == 2
    for layer, ((v, *_), after) in zip(layers, calls, strict=True):
        state = {k: t.double() for k, t in layer.state_dict().items()}
        shrunk = round((size[0] * size[1] / v.shape[1]) ** 0.5)
        grid = (size[0] // shrunk, size[1] // shrunk)
        more = {"grid": grid} if fuser == "gatedSA2" else {}
        v = v.double()
        expected = layer_by_hand(fuser)(state, v, tokens, 8, **more)
        assert relative(after.double() - v, expected - v) < 1e-4


def token_input(layer, fuser):
    """The module that is given a layer's grounding tokens."""
    return layer.attn.to_k if fuser == "gatedCA" else layer.linear


def test_maps_reach_the_tokenizer_between_minus_1_and_1(rig):
    gligen = rig.gligen("normal map")
    first = next(m for m in gligen.model.modules() if isinstance(m, Conv2d) and m.stride == (4, 4))
    colour = torch.tensor([0.0, 0.5, 1.0]).expand(1, 64, 128, 3)
    with calls_of(first) as calls:
        rig.scheduled(rig.spatial_map(colour, "normal map"))
    seen = calls[0][0][0]
    assert torch.allclose(seen.mean((0, 2, 3)), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-4)
