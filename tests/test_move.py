"""Layouts that move over the pictures of a batch."""

import pytest
import small
import torch
from gligen_pack.gligen_ops.errors import GligenError
from rig import person, picture, relative

LEFT, RIGHT = (0.0, 0.25, 0.25, 0.5), (0.5, 0.5, 0.5, 0.25)
COUNT = 4
ROUNDING = 1e-5


def box(rig, place, text="a red ball", to=None, **inputs):
    return rig.text_box(text, *place, to=to, **inputs)


def between(share):
    return tuple(a + share * (b - a) for a, b in zip(LEFT, RIGHT, strict=True))


def move(rig, begin, end, frames=COUNT, **inputs):
    return rig.node("GligenMove", begin=begin, end=end, frames=frames, **inputs)[0]


def sampled(rig, positive, batch=COUNT, model=None):
    return rig.sample(model or rig.model, positive, steps=2, cfg=4.0, batch=batch)


@pytest.mark.parametrize("scheduled", [True, False], ids=["schedule node", "plain KSampler"])
def test_each_picture_has_the_box_where_it_is_then(rig, scheduled):
    model = rig.schedule() if scheduled else rig.model
    found = sampled(rig, move(rig, box(rig, LEFT), box(rig, RIGHT)), model=model)
    for i in range(COUNT):
        alone = sampled(rig, box(rig, between(i / (COUNT - 1))), model=model)
        assert relative(found[i], alone[i]) < ROUNDING
    assert relative(found[0], sampled(rig, box(rig, RIGHT), model=model)[0]) > 1e-4


def test_strengths_move_too_and_what_fades_in_is_there(rig):
    found = sampled(rig, move(rig, box(rig, LEFT, strength=0.0), box(rig, LEFT, strength=1.5)))
    for i, strength in enumerate((0.0, 0.5, 1.0, 1.5)):
        alone = sampled(rig, box(rig, LEFT, strength=strength))
        assert relative(found[i], alone[i]) < ROUNDING
    assert torch.equal(found[0], rig.plain(steps=2, cfg=4.0, batch=COUNT)[0])


def test_of_two_things_each_has_its_strength_in_each_picture(rig):
    def layout(one, other):
        return box(rig, RIGHT, "a blue cube", to=box(rig, LEFT, strength=one), strength=other)

    found = sampled(rig, move(rig, layout(1.0, 0.5), layout(0.25, 2.0), frames=2), batch=2)
    for i, alone in enumerate((layout(1.0, 0.5), layout(0.25, 2.0))):
        assert relative(found[i], sampled(rig, alone, batch=2)[i]) < ROUNDING


def test_poses_move_point_by_point(rig):
    def pose(dx):
        moved = person()
        numbers = moved["people"][0]["pose_keypoints_2d"]
        numbers[::3] = [x + dx if x else x for x in numbers[::3]]
        return rig.keypoints([moved])

    found = sampled(rig, move(rig, pose(0.0), pose(0.2), frames=3), batch=3)
    for i, dx in enumerate((0.0, 0.1, 0.2)):
        assert relative(found[i], sampled(rig, pose(dx), batch=3)[i]) < ROUNDING


def test_a_second_move_goes_on_from_the_first(rig):
    there = move(rig, box(rig, LEFT), box(rig, RIGHT), frames=2)
    found = sampled(rig, move(rig, there, box(rig, LEFT), frames=2))
    for i, share in enumerate((0.0, 1.0, 0.5, 0.0)):
        assert relative(found[i], sampled(rig, box(rig, between(share)))[i]) < ROUNDING


def test_a_curve_says_how_much_of_the_way_is_done(rig):
    pytest.importorskip("comfy_api.input", reason="this host has no Curve node")
    curve = {"points": [[0.0, 1.0], [1.0, 0.0]], "interpolation": "linear"}
    try:
        back = move(rig, box(rig, LEFT), box(rig, RIGHT), frames=2, curve=curve)
    except ImportError:
        pytest.skip("this host has no Curve node")
    found = sampled(rig, back, batch=2)
    assert relative(found[0], sampled(rig, box(rig, RIGHT), batch=2)[0]) < ROUNDING


def test_one_frame_is_the_beginning_and_the_last_stays_for_any_more_pictures(rig):
    one = sampled(rig, move(rig, box(rig, LEFT), box(rig, RIGHT), frames=1), batch=2)
    assert relative(one, sampled(rig, box(rig, LEFT), batch=2)) < ROUNDING
    more = sampled(rig, move(rig, box(rig, LEFT), box(rig, RIGHT), frames=2), batch=3)
    assert relative(more[2], sampled(rig, box(rig, RIGHT), batch=3)[2]) < ROUNDING


def test_in_context_windows_each_picture_keeps_its_own(rig):
    """As windows do it: some of the pictures by themselves."""
    import comfy.sample

    positive = move(rig, box(rig, LEFT), box(rig, RIGHT))
    whole = sampled(rig, positive)
    noise = comfy.sample.prepare_noise(torch.zeros(COUNT, 4, 8, 16), 5)[2:]
    with torch.inference_mode():
        part = comfy.sample.sample(
            rig.model, noise, 2, 4.0, "euler", "normal", positive, rig.negative,
            torch.zeros_like(noise), disable_pbar=True, seed=5,
        )  # fmt: skip
    assert relative(part, whole[2:]) < ROUNDING


def test_preview_shows_the_way(rig):
    positive = move(rig, box(rig, LEFT), box(rig, RIGHT), frames=2)
    (drawn,) = rig.node("GligenPreview", conditioning=positive, image=torch.zeros(2, 64, 128, 3))
    for i, place in enumerate((LEFT, RIGHT)):
        (alone,) = rig.node(
            "GligenPreview", conditioning=box(rig, place), image=torch.zeros(1, 64, 128, 3)
        )
        assert torch.equal(drawn[i], alone[0])


def test_what_is_not_the_same_at_both_ends_is_told(rig):
    two = box(rig, LEFT, "a cat", to=box(rig, RIGHT))
    with pytest.raises(GligenError, match="begin grounds 1 things and end 2"):
        move(rig, box(rig, LEFT), two)
    with pytest.raises(GligenError, match="thing 1: 'a red ball' .* in begin, 'a dog' .* in end"):
        move(rig, box(rig, LEFT), box(rig, LEFT, "a dog"))
    with pytest.raises(GligenError, match="thing 1: .*a person"):
        move(rig, box(rig, LEFT), rig.keypoints([person()]))
    with pytest.raises(GligenError, match="begin combines 2 prompts and end 1"):
        move(rig, box(rig, LEFT) + small.conditioning(3), box(rig, LEFT))
    with pytest.raises(GligenError, match="a map .*does not move"):
        move(rig, rig.spatial_map(picture(1)), rig.spatial_map(picture(2)))


def test_a_prompt_without_grounding_stays_as_it_is(rig):
    assert move(rig, rig.prompt, rig.prompt) == rig.prompt
