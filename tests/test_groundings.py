"""Every kind of grounding in the real host, alone and together, on a small model of SD 1.5's structure."""

from types import SimpleNamespace

import pytest
import small
import torch
from files import random_tensors
from gligen_pack.gligen_ops.entities import PhraseBox
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.places import Box

MAPS = ["hed map", "canny map", "depth map", "normal map", "semantic map"]


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def p(pack):
    """What the tests use of the pack and the host. Maps have a narrow backbone."""
    from gligen_pack.gligen_ops.model import blocks_of
    from gligen_pack.nodes.encoders import phrases

    model = small.sd15()
    widths = blocks_of(model.model.diffusion_model)
    loaded = {}

    def gligen(kind="text box", seed=0, fuser="gatedSA"):
        if (kind, seed, fuser) not in loaded:
            width = 768 if "box" in kind else 32
            tensors = random_tensors(kind, widths, 768, width, seed, 0.6, fuser=fuser)
            loaded[kind, seed, fuser] = small.gligen(tensors, f"{kind}.safetensors", (kind, fuser))
        return loaded[kind, seed, fuser]

    positive, negative = small.conditioning(1), small.conditioning(2)
    boxes = [PhraseBox("a red ball", Box(0.0, 0.25, 0.5, 0.75)),
             PhraseBox("a blue cube", Box(0.5, 0.125, 0.875, 1.0))]  # fmt: skip

    def text(to=positive, kind="text box", boxes=boxes, strength=1.0, seed=0):
        frames = boxes if boxes and isinstance(boxes[0], list) else [boxes]
        return phrases.ground_boxes(to, gligen(kind, seed), small.Clip(), frames, strength)

    def schedule(tau=1.0, negative="null", **kwargs):
        return small.schedule(model, tau, negative=negative, **kwargs)

    return SimpleNamespace(**locals())


def picture(seed=0, count=1, size=(96, 64)):
    return torch.rand(count, *size, 3, generator=torch.manual_seed(seed))


def person(dx=0.0):
    points = [[0.2 + dx + 0.02 * i, 0.1 + 0.05 * i] for i in range(17)]
    return {"people": [{"pose_keypoints_2d": [v for x, y in points for v in (x, y, 1.0)]}]}


def grounded(p, kind, to=None, strength=1.0, seed=0, frames=1, fuser="gatedSA"):
    """A conditioning grounded by a node of each kind."""
    from gligen_pack.nodes.keypoints import GligenKeypoints
    from gligen_pack.nodes.spatial_map import GligenSpatialMap

    to, gligen = to or p.positive, p.gligen(kind, seed, fuser)
    if kind == "keypoints":
        pose = [person(0.1 * i) for i in range(frames)]
        return GligenKeypoints.execute(to, gligen, "", 0.3, pose, strength).result[0]
    if kind in MAPS:
        image = picture(3, frames)
        if kind == "semantic map":
            image = (image[..., :1] * 150).round() / 255
        return GligenSpatialMap.execute(to, gligen, image, "automatic", strength).result[0]
    if kind == "text and image box":
        return image_box(p, to=to, strength=strength, seed=seed)
    return p.text(to, kind, strength=strength, seed=seed)


class VisionClip(small.Clip):
    """A CLIP that has a text projection."""

    def __init__(self, projection):
        super().__init__()
        self.projection = projection

    def get_sd(self):
        return {"clip_l.transformer.text_projection.weight": self.projection}


PROJECTION = torch.randn(768, 768, generator=torch.manual_seed(7)) / 768**0.5


def image_box(p, use="image", text="", clip=None, to=None, embedding=None, strength=1.0, seed=0,
              projection="of the CLIP"):  # fmt: skip
    from gligen_pack.nodes.image_box import GligenImageBox

    if embedding is None:
        embedding = torch.randn(1, 768, generator=torch.manual_seed(8))
    return GligenImageBox.execute(
        to or p.positive, p.gligen("text and image box", seed), {"image_embeds": embedding},
        clip or VisionClip(PROJECTION), text, 0.25, 0.25, 0.5, 0.5, use, projection, strength,
    ).result[0]  # fmt: skip


KINDS = ["text box", "text and image box", "keypoints", *MAPS]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_grounds_while_beta_is_not_0_and_changes_no_bit_where_it_is(p, kind):
    plain = small.sample(p.model, p.positive, p.negative, steps=2)
    conditioning = grounded(p, kind)
    on = small.sample(p.schedule(), conditioning, p.negative, steps=2)
    assert relative(on, plain) > 1e-3
    assert torch.equal(small.sample(p.schedule(0.0), conditioning, p.negative, steps=2), plain)
    assert torch.equal(small.sample(p.model, p.positive, p.negative, steps=2), plain)


@pytest.mark.parametrize("kind", ["hed map", "canny map", "semantic map"])
def test_a_maps_first_convolution_is_that_of_the_checkpoint(p, kind):
    """Held against a UNet whose first convolution really is the checkpoint's."""
    from torch import nn

    conditioning = grounded(p, kind)
    gligen = p.gligen(kind).model.net
    for layer in gligen.fusers:
        for gate in (gligen.fusers[layer].alpha_attn, gligen.fusers[layer].alpha_dense):
            nn.init.zeros_(gate)  # the convolution alone
    got = small.sample(p.schedule(), conditioning, p.negative, steps=3)

    unet = p.model.model.diffusion_model
    entity = small.entries(conditioning)[0].at(0)
    extra = gligen.first_conv.extra(entity.fitted((16, 16), gligen.position_net.side), (16, 16))

    class Swapped(nn.Module):
        def forward(self, x):
            both = torch.cat([x, extra.expand(len(x), -1, -1, -1)], dim=1)
            conv = gligen.first_conv.conv
            return nn.functional.conv2d(both, conv.weight, conv.bias, padding=1)

    own, unet.input_blocks[0][0] = unet.input_blocks[0][0], Swapped()
    try:
        expected = small.sample(p.model, p.positive, p.negative, steps=3)
    finally:
        unet.input_blocks[0][0] = own
        p.loaded.pop((kind, 0, "gatedSA"))
    assert relative(got, expected) < 1e-5
    assert relative(small.sample(p.model, p.positive, p.negative, steps=3), expected) > 1e-2


def test_after_tau_the_first_convolution_is_the_models_own_again(p):
    conditioning = grounded(p, "canny map")
    calls = []
    conv = p.gligen("canny map").model.net.first_conv
    hook = conv.register_forward_hook(lambda *_: calls.append(1))
    small.sample(p.schedule(0.5), conditioning, p.negative, steps=4)
    hook.remove()
    assert len(calls) == 2 * 2  # positive and negative, in two of four steps


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_in_the_plain_ksampler_is_as_with_the_schedule_at_beta_1(p, kind):
    conditioning = grounded(p, kind)
    expected = small.sample(p.schedule(), conditioning, p.negative, steps=2)
    assert torch.equal(small.sample(p.model, conditioning, p.negative, steps=2), expected)


def test_image_features_are_projected_into_the_space_of_text_and_scaled(p):
    embedding = torch.randn(1, 768, generator=torch.manual_seed(8))
    entity = small.entries(image_box(p))[0].at(0)
    expected = embedding[0].double() @ PROJECTION.double()
    expected = expected / expected.norm() * 28.7
    assert relative(entity.image.double(), expected) < 1e-6
    assert entity.text is None and entity.box == Box(0.25, 0.25, 0.75, 0.75)
    with_text = small.entries(image_box(p, "text and image", "a clock"))[0].at(0)
    assert with_text.text is not None and with_text.image is not None
    style = small.entries(image_box(p, "style"))[0].at(0)
    assert style.text is None and style.box == Box(0.0, 1.0, 0.0, 1.0)


def test_a_clip_without_its_projection_is_caught_and_a_file_of_it_helps(p, tmp_path, monkeypatch):
    import folder_paths
    from safetensors.torch import save_file

    bare = VisionClip(torch.eye(768))
    with pytest.raises(GligenError, match="clip: it has no text projection.*projection_matrix"):
        image_box(p, clip=bare)
    torch.save(PROJECTION, tmp_path / "projection_matrix.pt")
    save_file({"weight": PROJECTION}, tmp_path / "projection_matrix.safetensors")
    (tmp_path / "projection_text.pt").write_text("no matrix")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "gligen", ([str(tmp_path)], {".pt", ".safetensors"})
    )
    own = small.entries(image_box(p))[0].at(0).image
    for name in ("projection_matrix.pt", "projection_matrix.safetensors"):
        got = small.entries(image_box(p, clip=bare, projection=name))[0].at(0).image
        assert torch.equal(got, own)
    with pytest.raises(
        GligenError, match="projection: projection_text.pt is not a file of a matrix"
    ):
        image_box(p, clip=bare, projection="projection_text.pt")


@pytest.mark.parametrize(
    "kwargs, told",
    [
        ({"embedding": torch.zeros(1, 1024)}, "clip_vision_output: its features are 1024 wide"),
        ({"embedding": torch.zeros(2, 768)}, "clip_vision_output: it holds 2 pictures"),
        ({"use": "text and image"}, "text: it is empty"),
    ],
)
def test_a_picture_that_cannot_be_used_is_refused_with_the_input(p, kwargs, told):
    with pytest.raises(GligenError, match=told):
        image_box(p, **kwargs)


def test_a_node_that_gets_another_kind_says_which_came_and_which_it_needs(p):
    from gligen_pack.nodes.keypoints import GligenKeypoints

    with pytest.raises(
        GligenError,
        match=r"depth map.safetensors is a depth map model.*keypoints \(gligen/gligen-generation-keypoint",
    ):
        GligenKeypoints.execute(p.positive, p.gligen("depth map"), "", 0.3, person())
    with pytest.raises(GligenError, match="is a keypoints model.*gligen-generation-text-box"):
        p.text(kind="keypoints")


# Several at once


def test_several_models_in_one_conditioning_add_their_residuals_in_any_order(p):
    def run(*kinds):
        conditioning = p.positive
        for kind in kinds:
            conditioning = grounded(p, kind, conditioning)
        return small.sample(p.schedule(), conditioning, p.negative, steps=2)

    both = run("text box", "keypoints", "depth map")
    assert relative(run("depth map", "text box", "keypoints"), both) < 1e-5
    assert relative(run("text box", "keypoints"), both) > 1e-3


def test_the_residuals_of_several_models_are_summed(p):
    """One layer of the UNet, by hand."""
    from gligen_pack.gligen_ops.places import WHOLE
    from gligen_pack.nodes.seam.fusing import Fusing
    from gligen_pack.nodes.seam.grounders import Grounder
    from gligen_pack.nodes.seam.groundings import groundings
    from gligen_pack.nodes.seam.tags import Row

    v = torch.randn(2, 256, 32, generator=torch.manual_seed(1))
    extra = {"block": ("input", 1), "block_index": 0, "transformer_index": 0, "n_heads": 8,
             "original_shape": [2, 4, 16, 16], "activations_shape": [2, 32, 16, 16],
             "attn_precision": None}  # fmt: skip

    def fuse(conditioning):
        rows = Row(0, 0, WHOLE), Row(0, 1, WHOLE)
        parts = [
            Grounder(g.gligen, 1.0, {0: g, 1: g}, rows, (16, 16), v.device)
            for g in groundings(small.entries(conditioning))
        ]
        with torch.inference_mode():
            return Fusing().fuse(v, extra, parts, 1.0)

    boxes, pose = p.text(), grounded(p, "keypoints")
    both = grounded(p, "keypoints", p.text())
    expected = v + (fuse(boxes) - v) + (fuse(pose) - v)
    assert relative(fuse(both), expected) < 1e-6


def test_strength_multiplies_beta_where_all_of_a_model_have_the_same(p):
    weak = small.sample(p.schedule(), p.text(strength=0.4), p.negative)
    scheduled = small.sample(p.schedule(strength=0.4), p.text(), p.negative)
    assert relative(weak, scheduled) < 1e-5
    plain = small.sample(p.model, p.positive, p.negative)
    assert torch.equal(small.sample(p.schedule(), p.text(strength=0.0), p.negative), plain)


# Batches


def one_by_one(p, model, conditionings, latent_noise, steps=2):
    import comfy.sample

    out = []
    for conditioning, noise in zip(conditionings, latent_noise.split(1), strict=True):
        with torch.inference_mode():
            out.append(comfy.sample.sample(
                model, noise, steps, 7.5, "euler", "normal", conditioning, p.negative,
                torch.zeros_like(noise), disable_pbar=True,
            ))  # fmt: skip
    return torch.cat(out)


def together(p, model, conditioning, noise, steps=2):
    import comfy.sample

    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, 7.5, "euler", "normal", conditioning, p.negative,
            torch.zeros_like(noise), disable_pbar=True,
        )  # fmt: skip


def test_each_picture_of_a_batch_gets_its_own_boxes_and_the_last_hold(p):
    noise = torch.randn(4, 4, 16, 16, generator=torch.manual_seed(2))
    first, second = p.boxes
    frames = [[first], [first, second], [second]]
    batch = together(p, p.schedule(), p.text(boxes=frames), noise)
    apart = [[first], [first, second], [second], [second]]
    expected = one_by_one(p, p.schedule(), [p.text(boxes=b) for b in apart], noise)
    assert relative(batch, expected) < 1e-5


@pytest.mark.parametrize("kind", ["keypoints", "canny map"])
def test_each_picture_of_a_batch_gets_its_own_frame(p, kind):
    noise = torch.randn(3, 4, 16, 16, generator=torch.manual_seed(2))
    conditioning = grounded(p, kind, frames=2)
    entry = small.entries(conditioning)[0]

    def only(i):
        from gligen_pack.nodes.seam.conditioning import ground

        return ground(p.positive, p.gligen(kind).model, [(entry.at(i),)])

    batch = together(p, p.schedule(), conditioning, noise)
    expected = one_by_one(p, p.schedule(), [only(0), only(1), only(1)], noise)
    assert relative(batch, expected) < 1e-5
    assert relative(batch, one_by_one(p, p.schedule(), [only(0)] * 3, noise)) > 1e-4


def batched_coordinates(p, boxes, size=16):
    """What KJNodes' GLIGENTextBoxApplyBatchCoords makes: for each frame a list of the host's tuples."""
    gligen, clip = p.gligen(), small.Clip()
    frames = []
    for box in boxes:
        feature = clip.encode_from_tokens(clip.tokenize("a red ball"), "unprojected")[1]
        b = box.box
        sizes = (round(v * size) for v in (b.y1 - b.y0, b.x1 - b.x0, b.y0, b.x0))
        frames.append([(feature, *sizes)])
    text, extra = p.positive[0]
    return [[text, {**extra, "gligen": ("position_batched", gligen, frames)}]]


def test_boxes_that_move_from_picture_to_picture_as_kjnodes_writes_them(p):
    boxes = [PhraseBox("a red ball", box.box) for box in p.boxes]
    noise = torch.randn(3, 4, 16, 16, generator=torch.manual_seed(2))
    batch = together(p, p.schedule(), batched_coordinates(p, boxes), noise)
    apart = [p.text(boxes=[b]) for b in (boxes[0], boxes[1], boxes[1])]
    assert relative(batch, one_by_one(p, p.schedule(), apart, noise)) < 1e-5
    more = p.text(batched_coordinates(p, boxes), boxes=[p.boxes[1]])
    assert relative(together(p, p.schedule(), more, noise), batch) > 1e-3


def test_boxes_for_each_picture_in_the_plain_ksampler_are_not_silently_empty(p):
    with pytest.raises(GligenError, match="boxes for each frame.*GLIGEN β Schedule"):
        small.sample(p.model, batched_coordinates(p, p.boxes), p.negative, steps=1)


def test_a_kind_of_boxes_that_is_not_known_is_refused(p):
    text, extra = p.positive[0]
    strange = [[text, {**extra, "gligen": ("spiral", p.gligen(), [])}]]
    with pytest.raises(GligenError, match='"spiral"'):
        small.sample(p.schedule(), strange, p.negative, steps=1)


# Inpainting


class Vae:
    """Eight pixels to one place of four channels."""

    def encode(self, image):
        grey = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 8)
        return torch.cat([grey, grey.mean(1, keepdim=True)], dim=1)


def inpainted(p, kind, mask=None, image=None, to=None):
    from gligen_pack.nodes.inpaint import GligenInpaint

    boxes = [PhraseBox("a red ball", Box(0.25, 0.25, 0.75, 0.75))]
    conditioning = to or p.text(kind=kind, boxes=boxes)
    image = picture(5, size=(128, 128)) if image is None else image
    return GligenInpaint.execute(conditioning, p.gligen(kind), Vae(), image, mask).result


@pytest.mark.parametrize("kind", ["text box", "text box inpainting"])
def test_inpainting_leaves_all_outside_of_the_boxes_as_it_was(p, kind):
    conditioning, latent = inpainted(p, kind)
    out = small.sample(
        p.schedule(),
        conditioning,
        p.negative,
        latent=latent["samples"],
        noise_mask=latent["noise_mask"],
    )
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[4:12, 4:12] = False
    original = latent["samples"]
    assert torch.allclose(out[..., outside], original[..., outside], atol=1e-5)
    assert relative(out[..., ~outside], original[..., ~outside]) > 0.1


def test_an_inpainting_model_sees_the_known_picture_and_the_mask(p):
    """Its convolution is on in every step, as in the original; it takes [z, known · mask, mask]."""
    conditioning, latent = inpainted(p, "text box inpainting")
    seen = []
    conv = p.gligen("text box inpainting").model.net.first_conv.conv
    hook = conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    small.sample(p.schedule(0.5), conditioning, p.negative, steps=4, latent=latent["samples"])
    hook.remove()
    assert len(seen) == 4 * 2
    known = torch.ones(1, 1, 16, 16)
    known[..., 4:12, 4:12] = 0
    scaled = p.model.model.process_latent_in(latent["samples"])
    for x in seen:
        assert torch.equal(x[:, 8:], known) and torch.allclose(x[:, 4:8], scaled * known)


def test_a_mask_takes_the_place_of_the_boxes(p):
    mask = torch.zeros(1, 128, 128)
    mask[:, :64] = 1
    conditioning, latent = inpainted(p, "text box inpainting", mask)
    entity = small.entries(conditioning)[-1].at(0)
    assert torch.equal(entity.mask[0, 0, :8], torch.zeros(8, 16))
    assert torch.equal(entity.mask[0, 0, 8:], torch.ones(8, 16))
    assert torch.equal(latent["noise_mask"], 1 - entity.mask)


THIN = torch.zeros(1, 128, 128)
THIN[:, :, 61:64] = 1  # 3 pixels wide, beside the middle of the place of 8 that they lie in
SOFT = torch.zeros(1, 128, 128)
SOFT[:, :64] = 0.45


@pytest.mark.parametrize("kind", ["text box", "text box inpainting"])
@pytest.mark.parametrize(
    "mask, rows, columns",
    [(THIN, slice(None), slice(7, 8)), (SOFT, slice(0, 8), slice(None))],
    ids=["thin", "soft"],
)
def test_all_that_a_mask_touches_is_painted_and_nothing_else(p, kind, mask, rows, columns):
    conditioning, latent = inpainted(p, kind, mask)
    run = {"latent": latent["samples"], "noise_mask": latent["noise_mask"]}
    out = small.sample(p.schedule(), conditioning, p.negative, **run)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[rows, columns] = True
    original = latent["samples"]
    assert torch.allclose(out[..., ~inside], original[..., ~inside], atol=1e-5)
    assert relative(out[..., inside], original[..., inside]) > 0.1
    if kind == "text box inpainting":
        known = small.entries(conditioning)[-1].at(0).mask
        assert torch.equal(known[0, 0], (~inside).float())
        assert torch.equal(latent["noise_mask"], 1 - known)


def test_what_is_faint_in_a_mask_is_not_painted_and_what_is_soft_stays_soft_for_the_host(p):
    mask = 0.04 * torch.ones(1, 128, 128)
    mask[:, :64] = 0.45
    conditioning, latent = inpainted(p, "text box", mask)
    assert (latent["noise_mask"][..., 8:, :] == 0).all()
    assert torch.allclose(latent["noise_mask"][..., :8, :], torch.tensor(0.45))


@pytest.mark.parametrize("size", [(128, 128), (72, 200), (100, 60)])
def test_a_single_white_pixel_is_painted_wherever_it_is(p, size):
    for y, x in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 3, size[1] // 2)):
        mask = torch.zeros(1, *size)
        mask[:, y, x] = 1
        noise_mask = inpainted(p, "text box", mask, picture(5, size=size))[1]["noise_mask"]
        assert noise_mask.max() == 1


@pytest.mark.parametrize(
    "kwargs, told",
    [
        (
            {"mask": torch.ones(1, 64, 128)},
            "mask: it is 128 by 64 pixels, and the picture is 128 by 128",
        ),
        ({"mask": torch.zeros(1, 128, 128)}, "mask: it is black everywhere"),
        ({"mask": torch.full((1, 128, 128), 0.04)}, "mask: it is black .*at most 4% white"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(p, kwargs, told):
    with pytest.raises(GligenError, match=told):
        inpainted(p, "text box", **kwargs)


def test_nothing_to_paint_is_told(p):
    with pytest.raises(GligenError, match="no GLIGEN boxes"):
        inpainted(p, "text box", to=p.positive)


def test_a_box_that_is_off_is_not_painted(p):
    with pytest.raises(GligenError, match="no GLIGEN boxes of a strength above 0"):
        inpainted(p, "text box", to=p.text(strength=0.0))


def test_an_inpainting_model_without_a_picture_is_told(p):
    with pytest.raises(GligenError, match="add a GLIGEN Inpaint node, linked to this same model"):
        small.sample(p.schedule(), p.text(kind="text box inpainting"), p.negative, steps=1)


# Maps


def test_a_semantic_map_that_holds_no_classes_is_refused(p):
    from gligen_pack.nodes.pictures.ade20k import class_map

    with pytest.raises(GligenError, match="class indices reach 200, and ADE20K has 0 to 151"):
        class_map(torch.full((1, 2, 2, 3), 200 / 255), "automatic")
    with pytest.raises(
        GligenError, match="100% of its pixels have colours that ADE20K does not use"
    ):
        class_map(torch.tensor([0.9, 0.1, 0.5]).expand(1, 2, 2, 3), "automatic")


def test_a_map_with_a_strange_number_of_channels_is_refused(p):
    from gligen_pack.nodes.spatial_map import GligenSpatialMap

    with pytest.raises(GligenError, match="image: it has 2 channels"):
        GligenSpatialMap.execute(
            p.positive, p.gligen("canny map"), torch.rand(1, 8, 8, 2), "automatic"
        )


# Attention


def test_attention_is_noted_for_each_box_and_changes_nothing(p):
    from gligen_pack.nodes.attention import GligenAttention, GligenAttentionMaps

    conditioning = p.text()
    expected = small.sample(p.schedule(), conditioning, p.negative)
    model, record = GligenAttention.execute(p.schedule(0.5)).result
    small.sample(model, conditioning, p.negative)
    maps, gates = GligenAttentionMaps.execute(record, picture(), "all", 0, 100).result
    assert maps.shape[0] == 2 and maps.shape[2:] == (64, 3) and gates.shape[0] == 1
    assert record.names == ["a red ball", "a blue cube"]
    assert {step for _, step, _ in record.maps} == {0, 1}
    with pytest.raises(GligenError, match="on in the steps 0 to 1"):
        GligenAttentionMaps.execute(record, picture(), "all", 3, 100)
    model, record = GligenAttention.execute(p.schedule()).result
    assert torch.equal(small.sample(model, conditioning, p.negative), expected)


def test_what_has_no_name_is_recorded_by_what_it_is(rig):
    model, record = rig.node("GligenAttention", model=rig.schedule())
    rig.sample(model, rig.keypoints([{"people": [*person()["people"], *person(0.1)["people"]]}]))
    assert record.names == ["person 1", "person 2"]
    model, record = rig.node("GligenAttention", model=rig.schedule())
    rig.sample(model, rig.spatial_map(picture(), kind="depth map"))
    assert record.names == ["depth map"]


def test_a_record_is_empty_after_a_run_in_which_nothing_is_grounded(p):
    from gligen_pack.nodes.attention import GligenAttention, GligenAttentionMaps
    from gligen_pack.nodes.seam import patch

    for tau, positive in ((0.0, p.text()), (1.0, p.positive)):
        model, record = GligenAttention.execute(p.schedule()).result
        small.sample(model, p.text(), p.negative, steps=1)
        assert record.maps
        small.sample(patch.recorded(p.schedule(tau), record), positive, p.negative, steps=1)
        with pytest.raises(GligenError, match="nothing was noted"):
            GligenAttentionMaps.execute(record, picture(), "all", 0, 100)


def test_attention_of_a_run_that_has_not_been_is_told(p):
    from gligen_pack.nodes.attention import GligenAttention, GligenAttentionMaps

    _, record = GligenAttention.execute(p.schedule()).result
    with pytest.raises(GligenError, match="attention: nothing was noted"):
        GligenAttentionMaps.execute(record, picture(), "all", 0, 100)


def test_what_is_noted_is_the_softmax_over_places_and_tokens():
    from gligen_pack.gligen_ops.layers.attention_maps import attention_weights, to_grounding_tokens

    q, k = torch.randn(2, 6, 8), torch.randn(2, 9, 8)
    weights = attention_weights(q, k, heads=2)
    by_hand = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        by_hand.append((q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1))
    assert torch.allclose(weights, sum(by_hand) / 2, atol=1e-6)
    assert torch.equal(to_grounding_tokens(weights, 6, 3), weights[..., 6:].transpose(1, 2))


# More than one device


@pytest.mark.parametrize("pool", [False, True], ids=["in turn", "at once"])
def test_the_hosts_split_over_devices_gives_the_picture_of_one(p, pool):
    """Where core's own GLIGEN is left out. The devices are names for the CPU."""
    multigpu = pytest.importorskip("comfy.multigpu", reason="a host without the split")
    conditioning = grounded(p, "canny map", p.text())
    expected = small.sample(p.schedule(), conditioning, p.negative)
    model = p.schedule()
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    model.model_options["multigpu_clones"] = dict.fromkeys(devices, model)
    workers = multigpu.MultiGPUThreadPool(devices) if pool else None
    model.model_options["multigpu_thread_pool"] = workers
    try:
        assert relative(small.sample(model, conditioning, p.negative), expected) < 1e-5
    finally:
        if workers is not None:
            workers.shutdown()


def test_weights_that_the_host_keeps_off_the_device_are_used_as_they_come(p):
    """Little memory: the host loads a part of a model and gives the rest of it as it is needed."""
    conditioning = p.text()
    expected = small.sample(p.schedule(), conditioning, p.negative)
    gligen = p.gligen()
    gligen.detach()
    gligen.load(torch.device("cpu"), lowvram_model_memory=gligen.model_size() // 10)
    kept_off = [
        m for m in gligen.model.modules() if getattr(m, "prev_comfy_cast_weights", None) is not None
    ]
    assert kept_off
    assert relative(small.sample(p.schedule(), conditioning, p.negative), expected) < 1e-5


# Saving


def test_a_saved_model_is_the_one_that_was_loaded_and_knows_its_kind(p, tmp_path, monkeypatch):
    import folder_paths
    from gligen_pack.gligen_ops.files.checkpoint import read_gligen
    from gligen_pack.nodes.model_save import GligenModelSave
    from gligen_pack.nodes.seam import gligens

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    gligen = p.gligen("depth map", fuser="gatedSA2")
    GligenModelSave.execute(gligen, "gligen/part")
    (file,) = (tmp_path / "gligen").glob("part*.safetensors")
    again = gligens.load(str(file), "part.safetensors")
    assert (again.net.kind.name, again.net.fuser) == ("depth map", "gatedSA2")
    assert again.source == gligen.model.source
    before, after = gligen.model.net.state_dict(), again.net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    expected = random_tensors("depth map", p.widths, 768, 32, 0, 0.6, fuser="gatedSA2")
    assert read_gligen(file).tensors.keys() == expected.keys()


def saved_from_the_hosts_loader(tensors, folder, monkeypatch):
    """The file that GLIGEN Model Save makes of what the host's GLIGENLoader gives for these tensors."""
    import comfy.sd
    import folder_paths
    from gligen_pack.nodes.model_save import GligenModelSave
    from safetensors.torch import save_file

    monkeypatch.setattr(folder_paths, "output_directory", str(folder / "output"))
    save_file(tensors, folder / "gligen.safetensors")
    GligenModelSave.execute(comfy.sd.load_gligen(str(folder / "gligen.safetensors")), "gligen")
    (file,) = (folder / "output").glob("gligen*.safetensors")
    return file


@pytest.mark.parametrize("divisor, token_width", [(10, 768), (5, 1024)], ids=["SD 1.x", "SD 2.x"])
def test_a_model_of_the_hosts_loader_is_saved_with_the_names_of_its_blocks(
    pack, tmp_path, monkeypatch, divisor, token_width
):
    from files import SD15_WIDTHS, random_text_box_tensors, scaled
    from gligen_pack.gligen_ops.files.checkpoint import read_gligen
    from gligen_pack.nodes.seam import gligens

    tensors = random_text_box_tensors(scaled(SD15_WIDTHS, divisor), token_width, token_width)
    file = saved_from_the_hosts_loader(tensors, tmp_path, monkeypatch)
    saved = read_gligen(file).tensors
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)
    assert not gligens.load(str(file), "again").by_order


@pytest.mark.parametrize("layout", ["SDXL", "15 layers", "other widths"])
def test_a_model_of_the_hosts_loader_whose_blocks_cannot_be_told_is_not_saved(
    pack, tmp_path, monkeypatch, layout
):
    from files import SD15_WIDTHS, SDXL_WIDTHS, random_text_box_tensors, scaled

    widths = {
        "SDXL": scaled(SDXL_WIDTHS, 10),
        "15 layers": dict(list(scaled(SD15_WIDTHS, 10).items())[:-1]),
        "other widths": dict.fromkeys(SD15_WIDTHS, 32),
    }
    tensors = random_text_box_tensors(widths[layout])
    with pytest.raises(GligenError, match="gligen: .*names of the blocks.*GLIGEN Model Loader"):
        saved_from_the_hosts_loader(tensors, tmp_path, monkeypatch)
    assert not list((tmp_path / "output").glob("**/*")), "nothing is written"
