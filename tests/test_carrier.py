"""How grounding knows which part of a picture it is for: its carrier's hint is cut as any ControlNet's is."""

import pytest
import torch
from torch.nn.functional import interpolate


@pytest.fixture(scope="module")
def carrier(pack):
    from gligen_pack.nodes.seam import carrier

    return carrier


@pytest.mark.parametrize("mode", ["nearest-exact", "bilinear", "area"])
@pytest.mark.parametrize("size", [(4, 6), (9, 16), (64, 64), (512, 700)])
def test_a_carrier_knows_its_region_by_a_hint_that_was_cut_and_resized(carrier, size, mode):
    whole = carrier.coordinates()
    piece = interpolate(whole[..., 64:320, 128:512], size, mode=mode)
    (region,) = carrier.Carrier(hint=piece).regions()
    expected = (128 / 512, 64 / 512, 1.0, 320 / 512)
    ends = region.x0, region.y0, region.x1, region.y1
    assert ends == pytest.approx(expected, abs=1e-2 if min(size) < 64 else 1 / 512)


def test_a_hint_of_several_tiles_tells_the_region_of_each(carrier):
    whole = carrier.coordinates()
    tiles = [whole[..., :256, :256], whole[..., 256:, :256], whole[..., 128:384, 256:]]
    regions = carrier.Carrier(hint=torch.cat(tiles)).regions()
    assert [(r.x0, r.y0, r.x1, r.y1) for r in regions] == [
        (0, 0, 0.5, 0.5),
        (0, 0.5, 0.5, 1),
        (0.5, 0.25, 1, 0.75),
    ]


def test_a_hint_of_one_pixel_breaks_nothing(carrier):
    (region,) = carrier.Carrier(hint=carrier.coordinates()[..., 200:201, 100:101]).regions()
    assert region.x0 <= 100.5 / 512 <= region.x1


def test_entries_come_in_the_order_in_which_they_were_put_in(rig, carrier):
    from comfy.controlnet import ControlNet
    from gligen_pack.nodes.seam.conditioning import entries_of

    first = rig.text_box("a cat", 0.1, 0.1, 0.3, 0.3)
    between = [[text, {**cond, "control": ControlNet()}] for text, cond in first]
    between[0][1]["control"].set_previous_controlnet(first[0][1]["control"])
    second = rig.text_box("a dog", 0.5, 0.5, 0.3, 0.3, to=between)
    third = rig.text_box("a fox", 0.6, 0.1, 0.3, 0.3, to=second)
    (_, cond) = third[0]
    assert len(carrier.carriers_of(cond)) == 2
    assert [e.at(0).phrase for e in entries_of(cond, (8, 8))] == ["a cat", "a dog", "a fox"]


def controls(carrier, strengths):
    """Copies of a ControlNet, as its nodes make them, each before a carrier of its own."""
    from comfy.controlnet import ControlNet

    base = ControlNet(torch.nn.Linear(1, 1))
    found = []
    for strength in strengths:
        control = base.copy()
        control.strength = strength
        found.append({"control": carrier.Carrier(previous=control)})
    return found


@pytest.mark.parametrize(
    "make", [lambda: float("0.55"), lambda: "".join(["ca", "nny"]), lambda: [1, float("2.5")],
             lambda: {"a": float("0.5")}, lambda: None],
)  # fmt: skip
def test_controlnets_that_do_the_same_are_one_after_the_carriers_are_gone(carrier, make):
    one, other = controls(carrier, [make(), make()])
    carrier.take_off({"positive": [one], "negative": [other]})
    assert one["control"] is other["control"]


@pytest.mark.parametrize(
    "values", [(0.5, 0.6), ("a", "b"), ([1, 2], [1, 3]), ([1], [1, 2]), (1, None)]
)
def test_controlnets_that_do_not_do_the_same_stay_two(carrier, values):
    one, other = controls(carrier, values)
    carrier.take_off({"positive": [one], "negative": [other]})
    assert one["control"] is not other["control"]
