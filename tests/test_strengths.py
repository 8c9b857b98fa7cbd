"""How strongly a thing grounds: in the attention to it, in β, and in the first convolution."""

import math

import pytest
import reference
import torch
from rig import (
    MAPS,
    Clip,
    added_tokens,
    calls_of,
    gated_layers,
    person,
    picture,
    relative,
)

SLOTS = 30


def boxes(rig, strengths, kind="text box"):
    """A conditioning with a box of each strength."""
    conditioning = None
    for number, strength in enumerate(strengths):
        place = 0.1 * number, 0.05 * number, 0.5, 0.25
        conditioning = rig.text_box(
            f"thing {number}", *place, to=conditioning, kind=kind, strength=strength
        )
    return conditioning


def first_layer(rig, positive, gligen):
    """Visual tokens before and after the first gated layer, grounding tokens, and its weights."""
    layer = gated_layers(gligen)[0]
    with calls_of(layer) as layers, calls_of(layer.linear) as linears:
        rig.scheduled(positive)
    (v, *_), after = layers[0]
    state = {k: t.double() for k, t in layer.state_dict().items()}
    return v.double(), after.double(), linears[0][0][0].double(), state


def attended(state, v, tokens, shares, beta):
    """The gated layer by hand: in the softmax each grounding token counts as its share says."""
    x = reference.both(state, v, tokens)
    q, k, value = (
        (x @ state[f"attn.to_{n}.weight"].T).unflatten(-1, (8, -1)).transpose(1, 2) for n in "qkv"
    )
    weights = torch.exp(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])) * shares
    found = (weights / weights.sum(-1, keepdim=True)) @ value
    found = found.transpose(1, 2).flatten(-2)[:, : v.shape[1]]
    found = found @ state["attn.to_out.0.weight"].T + state["attn.to_out.0.bias"]
    return reference.gated(state, v, found, beta)


@pytest.mark.parametrize(
    "strengths", [(1.0, 0.25), (0.25, 1.0), (0.5, 2.0, 0.1), (0.4, 0.4), (3.0,)], ids=str
)
def test_the_strongest_multiplies_beta_and_a_weaker_one_counts_less_in_the_softmax(rig, strengths):
    positive = boxes(rig, strengths)
    v, after, tokens, state = first_layer(rig, positive, rig.gligen())
    shares = torch.ones(v.shape[1] + SLOTS, dtype=torch.float64)
    for slot, strength in enumerate(strengths):
        shares[v.shape[1] + slot] = strength / max(strengths)
    expected = attended(state, v, tokens, shares, max(strengths))
    assert relative(after - v, expected - v) < 1e-4
    others = torch.ones_like(shares)
    if len(set(strengths)) > 1:
        alike = attended(state, v, tokens, others, max(strengths))
        assert relative(after - v, alike - v) > 1e-3


def test_both_tokens_of_a_thing_with_text_and_picture_count_as_its_strength_says(rig):
    kind = "text and image box"
    positive = boxes(rig, (0.25, 1.0), kind)
    v, after, tokens, state = first_layer(rig, positive, rig.gligen(kind))
    shares = torch.ones(v.shape[1] + 2 * SLOTS, dtype=torch.float64)
    shares[[v.shape[1], v.shape[1] + SLOTS]] = 0.25  # all texts, then all pictures
    assert relative(after - v, attended(state, v, tokens, shares, 1.0) - v) < 1e-4


def grounded(rig, node, strength):
    """By one thing of each node that has a strength."""
    if node == "GligenTextBox":
        return rig.text_box("a red ball", 0.1, 0.2, 0.6, 0.4, strength=strength)
    inputs = {"conditioning": rig.prompt, "strength": strength}
    if node == "GligenTextBoxes":
        text = "a red ball: 0.1, 0.2, 0.6, 0.4\na cube: 0.5, 0.1, 0.3, 0.2"
        inputs |= {"gligen": rig.gligen(), "clip": Clip(), "text": text}
    elif node == "GligenImageBox":
        embedding = {"image_embeds": torch.randn(1, 768, generator=torch.manual_seed(8))}
        gligen = rig.gligen("text and image box")
        inputs |= {"gligen": gligen, "clip": Clip(), "clip_vision_output": embedding}
    elif node == "GligenKeypoints":
        inputs |= {"gligen": rig.gligen("keypoints"), "pose_keypoint": [person()]}
    else:
        inputs |= {"gligen": rig.gligen("depth map"), "image": picture()}
    return rig.node(node, **inputs)[0]


NODES = ["GligenTextBox", "GligenTextBoxes", "GligenImageBox", "GligenKeypoints"]


@pytest.mark.parametrize("node", NODES)
def test_the_strength_of_a_node_is_that_of_the_schedule(rig, node):
    weak = rig.scheduled(grounded(rig, node, 0.3))
    schedule = rig.schedule(strength=0.3)
    assert relative(weak, rig.sample(schedule, grounded(rig, node, 1.0))) < 1e-5
    assert relative(weak, rig.scheduled(grounded(rig, node, 1.0))) > 1e-3


@pytest.mark.parametrize("node", [*NODES, "GligenSpatialMap"])
@pytest.mark.parametrize("with_schedule", [True, False], ids=["schedule node", "plain KSampler"])
def test_strength_0_is_no_grounding(rig, node, with_schedule):
    model = rig.schedule() if with_schedule else rig.model
    got, plain = rig.sample(model, grounded(rig, node, 0.0), cfg=4.0), rig.plain(cfg=4.0)
    if with_schedule:
        assert torch.equal(got, plain)
    assert relative(got, plain) < 1e-6  # the host may run positive and negative one by one


def test_a_thing_of_strength_0_beside_others_is_as_if_it_were_not_there(rig):
    alone = rig.scheduled(boxes(rig, (0.5,)))
    assert torch.equal(rig.scheduled(boxes(rig, (0.5, 0.0))), alone)


@pytest.mark.parametrize("kind", MAPS)
def test_the_strength_of_a_map_says_how_much_of_its_first_convolution_there_is(rig, kind):
    image = (picture(3) * 150).round()[..., :1] / 255
    seen = []
    hook = rig.unet.input_blocks[1][0].register_forward_pre_hook(lambda _, i: seen.append(i[0]))
    rig.plain()
    for strength in (1.0, 0.3):
        rig.scheduled(rig.spatial_map(image, kind, strength=strength))
    hook.remove()
    plain, whole, weak = seen
    assert relative(whole, plain) > 1e-2
    assert relative(weak - plain, 0.3 * (whole - plain)) < 1e-4


@pytest.mark.parametrize("kind", MAPS)
def test_the_strength_of_a_map_multiplies_what_its_layers_add(rig, kind):
    """Against the layer by hand: the convolution has changed what it sees."""
    image = (picture(3) * 150).round()[..., :1] / 255
    gligen = rig.gligen(kind)
    v, after, tokens, state = first_layer(rig, rig.spatial_map(image, kind, strength=0.3), gligen)
    assert relative(after - v, reference.gated_self_attention(state, v, tokens, 8, 0.3) - v) < 1e-4


def test_the_negative_gets_its_null_grounding_as_strong_as_the_positive(rig):
    with added_tokens(rig) as added:
        rig.scheduled(boxes(rig, (0.3,)), cfg=4.0)
        rig.sample(rig.schedule(strength=0.3), boxes(rig, (1.0,)), cfg=4.0)
    weak, scheduled = added
    assert len(weak) == 2 and relative(weak, scheduled) < 1e-5


def test_a_weak_thing_is_as_weak_in_a_plain_ksampler(rig):
    weak = boxes(rig, (0.1, 0.3))
    assert relative(rig.sample(rig.model, weak, cfg=4.0), rig.scheduled(weak, cfg=4.0)) < 1e-5


def test_the_weights_by_hand_are_the_authors(rig):
    """Of `attended` here, where all count alike."""
    state = {k: t.double() for k, t in gated_layers(rig.gligen())[0].state_dict().items()}
    v, tokens = torch.randn(1, 8, 32).double(), torch.randn(1, 30, 768).double()
    by_hand = attended(state, v, tokens, torch.ones(38).double(), 0.7)
    assert relative(by_hand, reference.gated_self_attention(state, v, tokens, 8, 0.7)) < 1e-9
