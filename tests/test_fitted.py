"""A conditioning that is fitted to a region: a crop that is sampled by itself gets its part of the layout."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.fitting import cut_out
from gligen_pack.gligen_ops.places import Box
from gligen_pack.nodes.layouts import regions
from rig import Vae, picture, relative
from test_places import person

REGION = (0.25, 0.5, 0.5, 0.5)  # x, y, width, height
WHOLE_BOX, IN_CROP = (0.375, 0.625, 0.25, 0.25), (0.25, 0.25, 0.5, 0.5)
ROUNDING = 1e-5


def fit(rig, positive, *region, **inputs):
    places = dict(zip(("x", "y", "width", "height"), region or REGION, strict=True))
    return rig.node("GligenFitToRegion", conditioning=positive, **places, **inputs)[0]


def sampled(rig, positive, model=None, **kwargs):
    return rig.sample(model or rig.model, positive, steps=2, cfg=4.0, **kwargs)


def boxed(rig, *box, to=None):
    return rig.text_box("a red ball", *box, to=to)


@pytest.mark.parametrize("scheduled", [True, False], ids=["schedule node", "plain KSampler"])
def test_a_box_lies_in_the_crop_as_it_lies_in_the_region(rig, scheduled):
    model = rig.schedule() if scheduled else rig.model
    cropped = sampled(rig, fit(rig, boxed(rig, *WHOLE_BOX)), model)
    assert relative(cropped, sampled(rig, boxed(rig, *IN_CROP), model)) < ROUNDING
    assert relative(cropped, sampled(rig, boxed(rig, *WHOLE_BOX), model)) > 1e-4


def test_a_map_is_cut_to_the_region(rig):
    drawn = picture(3, size=(64, 128))
    cropped = sampled(rig, fit(rig, rig.spatial_map(drawn, "hed map")))
    by_hand = sampled(rig, rig.spatial_map(drawn[:, 32:, 32:96], "hed map"))
    assert relative(cropped, by_hand) < ROUNDING


def test_a_pose_is_cut_to_the_region(rig):
    pose = person()
    x, y, width, height = REGION
    numbers = torch.tensor(pose["people"][0]["pose_keypoints_2d"]).reshape(-1, 3)
    moved = (numbers[:, :2] - torch.tensor([x, y])) / torch.tensor([width, height])
    inside = ((moved >= 0) & (moved <= 1)).all(1) & (numbers[:, 2] > 0)
    rows = torch.cat([moved, numbers[:, 2:]], 1) * inside[:, None]
    by_hand = {**pose, "people": [{"pose_keypoints_2d": rows.flatten().tolist()}]}
    cropped = sampled(rig, fit(rig, rig.keypoints([pose])))
    assert relative(cropped, sampled(rig, rig.keypoints([by_hand]))) < ROUNDING


def test_what_lies_beside_the_region_is_not_there(rig):
    beside = sampled(rig, fit(rig, boxed(rig, 0.8, 0.0, 0.2, 0.3)))
    further = sampled(rig, fit(rig, boxed(rig, 0.0, 0.1, 0.2, 0.2)))
    assert torch.equal(beside, further)
    with_other = fit(rig, boxed(rig, *WHOLE_BOX, to=boxed(rig, 0.0, 0.1, 0.2, 0.2)))
    assert relative(sampled(rig, with_other), sampled(rig, boxed(rig, *IN_CROP))) < ROUNDING


def test_each_picture_of_a_batch_has_its_region(rig):
    masks = torch.zeros(2, 64, 128)
    masks[0, 32:, 32:96], masks[1, :32, :64] = 1, 1
    positive = boxed(rig, *WHOLE_BOX, to=boxed(rig, 0.125, 0.125, 0.25, 0.25))
    together = sampled(rig, fit(rig, positive, mask=masks), batch=2)
    for i, region in enumerate([REGION, (0.0, 0.0, 0.5, 0.5)]):
        alone = sampled(rig, fit(rig, positive, *region), batch=2)
        assert relative(together[i], alone[i]) < ROUNDING


def test_a_region_of_a_region(rig):
    positive = boxed(rig, *WHOLE_BOX)
    twice = fit(rig, fit(rig, positive, 0.0, 0.5, 1.0, 0.5), 0.25, 0.0, 0.5, 1.0)
    assert relative(sampled(rig, twice), sampled(rig, fit(rig, positive))) < ROUNDING


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_keep_their_region(rig, copied):
    positive = fit(rig, boxed(rig, *WHOLE_BOX))
    ((_, cond),) = positive
    control = copied(cond["control"].with_(entries=()))
    assert control.fitted == cond["control"].fitted != (Box(0.0, 0.0, 1.0, 1.0),)
    assert cond["control"].copy().fitted == control.fitted


def test_preview_and_inpaint_show_the_crops_layout(rig):
    by_hand, fitted = boxed(rig, *IN_CROP), fit(rig, boxed(rig, *WHOLE_BOX))
    drawn = [
        rig.node("GligenPreview", conditioning=c, width=128, height=64)[0]
        for c in (fitted, by_hand)
    ]
    assert torch.equal(*drawn)
    masks = [
        rig.node(
            "GligenInpaint", conditioning=c, gligen=rig.gligen(), vae=Vae(), image=picture(3)
        )[1]["noise_mask"]
        for c in (fitted, by_hand)
    ]  # fmt: skip
    assert torch.equal(*masks)


class TestFollowing:
    """Detailers that cut of a cond nothing but its mask, as `crop_condition_mask` of the Impact Pack does."""

    def cut(self, conditioning, x, y, width, height):
        def piece(mask):
            h, w = mask.shape[1:]
            rows = slice(round(y * h), round((y + height) * h))
            return mask[:, rows, round(x * w) : round((x + width) * w)]

        return [
            [text, {k: piece(v) if k == "mask" else v for k, v in cond.items()}]
            for text, cond in conditioning
        ]

    def test_each_crop_gets_its_part(self, rig):
        positive = boxed(rig, *WHOLE_BOX)
        following = fit(rig, positive, follow_detailer=True)
        for region in (REGION, (0.0, 0.0, 0.5, 0.75)):
            cropped = sampled(rig, self.cut(following, *region))
            assert relative(cropped, sampled(rig, fit(rig, positive, *region))) < 1e-3
        assert torch.equal(sampled(rig, following), sampled(rig, positive))

    def test_a_mask_that_was_there_stays(self, rig):
        mask = torch.zeros(1, 64, 128)
        mask[:, :, :64] = 1
        masked = [[text, {**cond, "mask": mask}] for text, cond in boxed(rig, *WHOLE_BOX)]
        following = fit(rig, masked, follow_detailer=True)
        assert torch.equal(sampled(rig, following), sampled(rig, masked))

    def test_another_mask_after_it_is_told(self, rig):
        following = fit(rig, boxed(rig, *WHOLE_BOX), follow_detailer=True)
        masked = [[text, {**cond, "mask": torch.ones(1, 64, 128)}] for text, cond in following]
        with pytest.raises(GligenError, match="after Conditioning Set Mask"):
            sampled(rig, masked)


def test_what_is_not_fitted_beside_what_is_is_told(rig):
    fitted = fit(rig, boxed(rig, *WHOLE_BOX))
    with pytest.raises(GligenError, match="after all other GLIGEN nodes"):
        sampled(rig, fitted + boxed(rig, *IN_CROP))


def test_an_area_is_told_before_the_node_and_after_it(rig):
    def with_area(conditioning):
        return [[text, {**cond, "area": (4, 8, 0, 0)}] for text, cond in conditioning]

    with pytest.raises(GligenError, match="Take Conditioning Set Area out"):
        fit(rig, with_area(boxed(rig, *WHOLE_BOX)))
    with pytest.raises(GligenError, match="Take Conditioning Set Area out"):
        sampled(rig, with_area(fit(rig, boxed(rig, *WHOLE_BOX))))


def segs(*crops, size=(64, 128)):
    return size, [SimpleNamespace(crop_region=list(crop)) for crop in crops]


def stitcher(**values):
    numbers = {f"{name}_{side}": [0] for name in regions.STITCHER for side in "xywh"}
    return {**numbers, "canvas_to_orig_w": [128], "canvas_to_orig_h": [64], **values}


def test_regions_of_other_packs():
    assert regions.of_segs(segs((32, 32, 96, 64))) == [Box(0.25, 0.5, 0.75, 1.0)]
    crop = {
        f"cropped_to_canvas_{side}": [v] for side, v in zip("xywh", (42, 40, 64, 32), strict=True)
    }
    shifted = stitcher(canvas_to_orig_x=[10], canvas_to_orig_y=[8], **crop)
    assert regions.of_stitcher(shifted) == [Box(0.25, 0.5, 0.75, 1.0)]
    sticking_out = stitcher(canvas_to_orig_x=[64], **{**crop, "cropped_to_canvas_x": [32]})
    assert regions.of_stitcher(sticking_out)[0].x0 == -0.25


def test_a_region_that_sticks_out_repeats_the_edge_of_a_map():
    row = torch.arange(8.0).view(1, 1, 8)
    assert cut_out(row, Box(-0.25, 0, 0.5, 1)).flatten().tolist() == [0, 0, 0, 1, 2, 3]
    assert cut_out(row, Box(0.5, 0, 1.25, 1)).flatten().tolist() == [4, 5, 6, 7, 7, 7]
    assert cut_out(row, Box(0.5, 0, 0.75, 1)).flatten().tolist() == [4, 5]


@pytest.mark.parametrize(
    "read, value, told",
    [
        (regions.of_mask, torch.zeros(1, 8, 8), "mask: it is black everywhere"),
        (regions.of_mask, torch.eye(8)[None].repeat(2, 1, 1) * torch.tensor([1.0, 0.0])[:, None, None],
         "mask 2: it is black everywhere"),
        (regions.of_segs, segs(), "it has 0 segments"),
        (regions.of_segs, segs((0, 0, 8, 8), (8, 8, 16, 16)), "2 segments.*follow_detailer"),
        (regions.of_segs, 7, "expected SEGS"),
        (regions.of_segs, segs((0, 0, 8)), "expected SEGS"),
        (regions.of_segs, segs((0, 0, 8, 8), size=(0, 0)), "expected SEGS"),
        (regions.of_stitcher, {}, "Inpaint Crop"),
        (regions.of_stitcher, stitcher(canvas_to_orig_x=[0, 0]), "Inpaint Crop"),
        (regions.of_stitcher, stitcher(canvas_to_orig_w=[0]), "Inpaint Crop"),
    ],
)  # fmt: skip
def test_a_region_that_cannot_be_read_is_told(read, value, told):
    with pytest.raises(GligenError, match=told):
        read(value)


@pytest.mark.parametrize("region", [(1.0, 0.0, 0.5, 0.5), (0.2, 0.2, 0.0, 0.5)])
def test_a_region_with_nothing_of_the_picture_is_told(rig, region):
    with pytest.raises(GligenError, match="nothing of it is in the picture"):
        fit(rig, boxed(rig, *WHOLE_BOX), *region)


def test_two_links_for_one_region_are_told(rig):
    with pytest.raises(GligenError, match="mask, segs: each gives a region"):
        fit(rig, rig.prompt, mask=torch.ones(1, 8, 8), segs=segs((0, 0, 8, 8)))


def test_a_prompt_without_grounding_stays_as_it_is(rig):
    assert fit(rig, rig.prompt) == rig.prompt
