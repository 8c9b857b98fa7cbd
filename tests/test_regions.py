"""What a part of a picture, of a batch or of a run is grounded by: its own, in any order of the nodes."""

import pytest
import small
import torch
from rig import Vae, picture, relative

A, B = ("a red ball", 0.0, 0.25, 0.5, 0.5), ("a blue cube", 0.5, 0.125, 0.375, 0.875)
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def other():
    return small.conditioning(3)


def with_values(conditioning, **values):
    return [[text, {**cond, **values}] for text, cond in conditioning]


def area(conditioning, x, width, height=8, y=0):
    """Of a latent of 8 × 16."""
    return with_values(conditioning, area=(height, width, y, x))


def during(conditioning, start, end):
    return with_values(conditioning, start_percent=start, end_percent=end)


def guided(rig, positive, negative=None, model=None, steps=3, **kwargs):
    return rig.sample(model or rig.model, positive, negative, steps=steps, cfg=7.5, **kwargs)


def inpainted(rig, to):
    """Painted into by another model than that of the maps."""
    box = rig.text_box(*A, to=to, kind="text box inpainting")
    gligen = rig.gligen("text box inpainting")
    inputs = {"conditioning": box, "gligen": gligen, "vae": Vae(), "image": picture(3)}
    return rig.node("GligenInpaint", **inputs)[0]


@pytest.mark.parametrize("paints", [False, True])
@pytest.mark.parametrize("kind", ["depth map", "hed map"])
def test_a_map_in_one_area_beside_a_prompt_without(rig, other, kind, paints):
    right = area(rig.spatial_map(picture(1), kind=kind), 8, 8)
    left = area(inpainted(rig, other) if paints else other, 0, 8)
    assert relative(guided(rig, right + left), guided(rig, left + right)) < ROUNDING
    moved = area(rig.spatial_map(picture(2), kind=kind), 8, 8)
    change = (guided(rig, moved + left, steps=1) - guided(rig, right + left, steps=1)).abs()
    assert change[..., 10:].mean() > 10 * change[..., :6].mean()  # but for the UNet's reach


@pytest.mark.parametrize("places", [((0, 8), (8, 8)), ((0, 10), (6, 10))])
def test_maps_in_areas_do_not_depend_on_the_order_of_their_prompts(rig, other, places):
    one = area(rig.spatial_map(picture(1)), *places[0])
    two = area(rig.spatial_map(picture(2), to=other), *places[1])
    assert relative(guided(rig, one + two), guided(rig, two + one)) < ROUNDING


def test_two_maps_for_the_same_part_are_told_of(rig, other, caplog):
    maps = rig.spatial_map(picture(1)) + rig.spatial_map(picture(2), to=other)
    guided(rig, maps, steps=2)
    assert caplog.text.count("several prompts each have a map") == 1


def test_strengths_of_combined_prompts_do_not_depend_on_their_order(rig, other):
    strong, weak = rig.text_box(*A), rig.text_box(*B, to=other, strength=0.3)
    assert relative(guided(rig, strong + weak), guided(rig, weak + strong)) < ROUNDING


def framed(rig, clip=None):
    """Four pictures, each with a box of its own."""
    lines = [f"a star: {x}, 0.2, 0.3, 0.6" for x in (0.0, 0.2, 0.4, 0.6)]
    boxes = [[{"x": x, "y": 0.2, "width": 0.3, "height": 0.6, "label": "a star"}] for x in range(4)]
    for i, (box,) in enumerate(boxes):
        box["x"] = float(lines[i].split(":")[1].split(",")[0])
    return rig.node(
        "GligenTextBoxes", conditioning=rig.prompt, gligen=rig.gligen(), clip=small.Clip(),
        text="", boxes=boxes, width=1, height=1,
    )[0]  # fmt: skip


def with_noise(rig, positive, noise):
    import comfy.sample

    with torch.inference_mode():
        return comfy.sample.sample(
            rig.model, noise, 2, 7.5, "euler", "normal", positive, rig.negative,
            torch.zeros_like(noise), disable_pbar=True, seed=5,
        )  # fmt: skip


@pytest.mark.parametrize("numbers", [[2, 3, 4, 5], [1, 2, 3, 4], [3, 4], [5], [0, 1]])
def test_pictures_beyond_the_last_frame_that_are_sampled_apart_get_the_last(rig, caplog, numbers):
    import comfy.sample

    positive, eight = framed(rig), torch.zeros(8, 4, 8, 16)
    whole = with_noise(rig, positive, comfy.sample.prepare_noise(eight, 5))
    noise = comfy.sample.prepare_noise(eight[: len(numbers)], 5, numbers)
    assert relative(with_noise(rig, positive, noise), whole[numbers]) < ROUNDING
    assert "known by" not in caplog.text


def test_pictures_that_all_have_the_same_noise_get_their_frames_in_order(rig):
    import comfy.sample

    noise = comfy.sample.prepare_noise(torch.zeros(3, 4, 8, 16), 5, [0, 0, 0])
    maps = picture(1, count=3)
    together = with_noise(rig, rig.spatial_map(maps), noise)
    for i in range(3):
        alone = with_noise(rig, rig.spatial_map(maps[i : i + 1]), noise[:1])
        assert relative(together[i : i + 1], alone) < ROUNDING


class TestSame:
    """negative_grounding: same, against a negative that is grounded by hand."""

    def test_in_ranges_of_the_run(self, rig, other):
        a, b = rig.text_box(*A), rig.text_box(*B, to=other)
        by_hand = rig.text_box(*A, to=rig.negative), rig.text_box(*B, to=rig.negative)
        split = [(0.0, 0.3), (0.3, 1.0)]

        def ranged(pair):
            return [c for one, r in zip(pair, split, strict=True) for c in during(one, *r)]

        same = guided(rig, ranged((a, b)), model=rig.schedule(negative_grounding="same"), steps=6)
        expected = guided(rig, ranged((a, b)), ranged(by_hand), model=rig.schedule(), steps=6)
        assert relative(same, expected) < ROUNDING

    @pytest.mark.parametrize(("whole", "left"), [(16, 8), (12, 4), (14, 6)])
    def test_in_areas_of_any_width(self, rig, other, whole, left):
        def parts(a, b):
            return area(a, 0, left) + area(b, left, whole - left)

        boxes = parts(rig.text_box(*A), rig.text_box(*B, to=other))
        size = {"size": (8, whole)}
        negative = parts(rig.negative, rig.negative)
        by_hand = parts(rig.text_box(*A, to=rig.negative), rig.text_box(*B, to=rig.negative))
        same = rig.schedule(negative_grounding="same")
        result = guided(rig, boxes, negative, model=same, **size)
        expected = guided(rig, boxes, by_hand, model=rig.schedule(), **size)
        assert relative(result, expected) < ROUNDING

    def test_of_combined_prompts_in_any_order(self, rig, other):
        a, b = rig.text_box(*A), rig.text_box(*B, to=other)
        same = rig.schedule(negative_grounding="same")
        assert relative(guided(rig, a + b, model=same), guided(rig, b + a, model=same)) < ROUNDING


def test_a_sampler_that_looks_ahead_and_goes_back_gets_each_calls_beta(rig, monkeypatch):
    from gligen_pack.nodes.seam import betas

    box, model = rig.text_box(*A), rig.schedule(tau=0.5)
    latent = guided(rig, box, model=model, steps=6, sampler="heunpp2")
    monkeypatch.setattr(betas, "goes_step_by_step", lambda sampler: False)
    read = guided(rig, box, model=model, steps=6, sampler="heunpp2")
    assert relative(latent, read) < ROUNDING


def hosts_own(rig):
    """As ComfyUI's own loader gives a file, and as this pack's does."""
    import comfy.gligen
    import comfy.model_management
    import comfy.model_patcher
    from gligen_pack.gligen_ops.model import blocks_of

    tensors = small.gligen_tensors(blocks_of(rig.unet))
    device = comfy.model_management.get_torch_device()

    def host():
        model = comfy.gligen.load_gligen(dict(tensors))
        return comfy.model_patcher.CoreModelPatcher(model, device, torch.device("cpu"))

    return host, small.gligen(tensors)


@pytest.mark.parametrize("in_negative", [False, True])
def test_the_hosts_boxes_with_no_other_node_of_this_pack_run_as_in_the_host(rig, in_negative):
    host, own = hosts_own(rig)
    feature = torch.randn(1, 768, generator=torch.manual_seed(4))

    def latent(gligen):
        def boxes(to):
            return with_values(to, gligen=("position", gligen, [(feature, 4, 8, 2, 1)]))

        negative = boxes(rig.negative) if in_negative else rig.negative
        return guided(rig, boxes(rig.prompt), negative)

    assert relative(latent(own), latent(host())) < ROUNDING


def test_a_file_in_the_hosts_loader_twice_or_there_and_here_is_one_model(rig):
    host, own = hosts_own(rig)
    first, second = host(), host()

    def latent(one, another):
        to = rig.text_box(*A, gligen=one)
        return guided(rig, rig.text_box(*B, to=to, gligen=another))

    expected = latent(own, own)
    assert relative(latent(first, second), latent(first, first)) < ROUNDING
    assert relative(latent(own, second), expected) < ROUNDING
    assert relative(latent(rig.gligen(seed=1), second), expected) > 1e-3  # of other weights


def test_a_node_that_drops_what_conditionings_bring_is_told_of(rig, caplog):
    def wrapper(apply_model, call):
        kept = {k: call["c"][k] for k in ("c_crossattn", "transformer_options")}
        return apply_model(call["input"], call["timestep"], **kept)

    model = rig.model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    guided(rig, rig.text_box(*A), model=model)
    assert caplog.text.count("drops what conditionings bring") == 1
    caplog.clear()
    guided(rig, rig.text_box(*A))
    assert "drops" not in caplog.text
