"""What other packs have put on a model is still called, and does what it does, beside grounding."""

import pytest
import torch
from rig import picture, relative

BLOCKS = 5  # of the model's transformers


class Other:
    """Another pack's patch: counts its calls and adds a little to what it is given."""

    def __init__(self):
        self.calls = 0

    def add(self, value):
        self.calls += 1
        return value + 0.05


def of_tokens(name):
    def put(model, other):
        model.set_model_patch(lambda v, *_: other.add(v), name)

    return put


def of_attention(name):
    def put(model, other):
        patch = lambda q, k, v, extra: (other.add(q), k, v)  # noqa: E731
        model.set_model_patch(patch, name)

    return put


def of_output(model, other):
    model.set_model_output_block_patch(lambda h, skip, extra: (other.add(h), skip))


def in_place_of_attention(model, other):
    def attention(q, k, v, extra):
        return other.add(q)

    for place in (("input", 1), ("middle", 0), ("output", 0)):
        model.set_model_attn1_replace(attention, *place)


def around_the_call(model, other):
    def wrapper(apply_model, call):
        return other.add(apply_model(call["input"], call["timestep"], **call["c"]))

    model.set_model_unet_function_wrapper(wrapper)


def wrapped(name):
    def put(model, other):
        def wrapper(executor, *args, **kwargs):
            out = executor(*args, **kwargs)
            return [other.add(o) for o in out] if isinstance(out, list) else other.add(out)

        model.add_wrapper_with_key(name, "another pack", wrapper)

    return put


def after_guidance(model, other):
    model.set_model_sampler_post_cfg_function(lambda args: other.add(args["denoised"]))


PATCHES = {
    "middle_patch": of_tokens("middle_patch"),
    "input_block_patch": of_tokens("input_block_patch"),
    "input_block_patch_after_skip": of_tokens("input_block_patch_after_skip"),
    "output_block_patch": of_output,
    "attn1_patch": of_attention("attn1_patch"),
    "attn2_patch": of_attention("attn2_patch"),
    "attn1_output_patch": of_tokens("attn1_output_patch"),
    "attn2_output_patch": of_tokens("attn2_output_patch"),
    "attn1_replace": in_place_of_attention,
    "unet_function_wrapper": around_the_call,
    "post_cfg_function": after_guidance,
    "wrapper of outer_sample": wrapped("outer_sample"),
    "wrapper of calc_cond_batch": wrapped("calc_cond_batch"),
    "wrapper of apply_model": wrapped("apply_model"),
    "wrapper of diffusion_model": wrapped("diffusion_model"),
    "wrapper of predict_noise": wrapped("predict_noise"),
}


def box(rig, gate=0.6):
    gligen = rig.gligen(gate=gate)
    return rig.text_box("a cat", 0.1, 0.2, 0.6, 0.4, gligen=gligen)


def patched(model, put):
    model, other = model.clone(), Other()
    put(model, other)
    return model, other


@pytest.mark.parametrize("put", PATCHES.values(), ids=PATCHES)
@pytest.mark.parametrize("with_map", [False, True], ids=["box", "box and map"])
def test_another_packs_patch_is_called_and_has_its_effect(rig, put, with_map):
    """On the model before the schedule node as after it, as often as without GLIGEN."""
    positive = rig.spatial_map(picture(3), "hed map", to=box(rig)) if with_map else box(rig)
    model, other = patched(rig.model, put)
    alone = rig.sample(model, rig.prompt, cfg=4.0)
    calls, other.calls = other.calls, 0
    before = rig.sample(rig.schedule(model), positive, cfg=4.0)
    assert other.calls == calls > 0
    model, other = patched(rig.schedule(), put)
    after = rig.sample(model, positive, cfg=4.0)
    assert other.calls == calls
    assert relative(before, after) < 1e-6
    assert relative(before, rig.scheduled(positive, cfg=4.0)) > 1e-6
    assert relative(before, alone) > 1e-3


@pytest.mark.parametrize("put", PATCHES.values(), ids=PATCHES)
def test_where_the_gates_are_shut_another_packs_patch_gives_its_own_picture_to_the_bit(rig, put):
    model, _ = patched(rig.model, put)
    alone = rig.sample(model, rig.prompt, cfg=4.0)
    assert torch.equal(rig.sample(rig.schedule(model), box(rig, gate=0.0), cfg=4.0), alone)
    assert relative(alone, rig.plain(cfg=4.0)) > 1e-6


@pytest.mark.parametrize("name", ["middle_patch", "attn1_patch", "attn2_patch"])
def test_so_it_is_in_a_plain_ksampler(rig, name):
    model, other = patched(rig.model, PATCHES[name])
    with_both = rig.sample(model, box(rig))
    assert other.calls == BLOCKS
    assert relative(with_both, rig.sample(rig.model, box(rig))) > 1e-6
    assert relative(with_both, rig.sample(model, rig.prompt)) > 1e-3


def test_a_patch_of_the_first_convolution_sees_the_maps_and_stays(rig):
    """What is added to the first features, as a ControlNet does, is added to the map's too."""

    def features(model, positive):
        seen = []
        hook = rig.unet.input_blocks[1][0].register_forward_pre_hook(lambda _, i: seen.append(i[0]))
        rig.sample(model, positive)
        hook.remove()
        return seen[0]

    def add(h, extra):
        return h + 0.5 if extra["block"] == ("input", 0) else h

    model = rig.model.clone()
    model.set_model_patch(add, "input_block_patch")
    mapped = rig.spatial_map(picture(3), "hed map")
    with_both, with_map = features(rig.schedule(model), mapped), features(rig.schedule(), mapped)
    assert relative(with_both, with_map + 0.5) < 1e-5
    assert relative(with_map, features(rig.model, rig.prompt)) > 1e-3
