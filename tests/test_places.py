"""Where things go: every way to say a place, on latents and pictures that are no squares."""

import json

import pytest
import reference
import small
import torch
from rig import Clip, extra_channels, in_area, person, relative, tensors_of, tokens_in

TALL = (24, 16)
PIXELS = 192, 128
"""Height and width of the picture of a tall latent."""
BOXES = {"a red ball": (16, 40, 48, 104), "a blue cube": (72, 8, 56, 24)}
"""x, y, width, height in pixels of that picture; no two numbers of a box are the same."""
AREA = 64, 40, 64, 144
"""The right half of the lower part."""


def fractions(x, y, width, height, picture=PIXELS):
    return x / picture[1], y / picture[0], width / picture[1], height / picture[0]


def ours(rig, boxes=BOXES, **inputs):
    """A chain of GLIGEN Text Box."""
    to = None
    for text, box in boxes.items():
        to = rig.text_box(text, *fractions(*box), to=to, **inputs)
    return to


def expected_tokens(gligen, boxes):
    """The formula's, of the corners of boxes in fractions."""
    corners = torch.zeros(1, 30, 4)
    features, mask = torch.zeros(1, 30, 768), torch.zeros(1, 30)
    for slot, (text, (x, y, width, height)) in enumerate(boxes.items()):
        corners[0, slot] = torch.tensor([x, y, x + width, y + height])
        features[0, slot] = small.Clip().encode_from_tokens(text, "unprojected")[1]
        mask[0, slot] = 1
    state = tensors_of(gligen, "position_net.")
    return reference.box_tokens(state, corners.double(), mask.double(), features.double())


def test_a_text_box_gives_its_corners_as_x_and_y_in_fractions(rig):
    got = tokens_in(rig, rig.gligen(), ours(rig), size=TALL)
    boxes = {text: fractions(*box) for text, box in BOXES.items()}
    assert relative(got, expected_tokens(rig.gligen(), boxes)) < 1e-5


def host_boxes(rig):
    """As core's own node writes them, in places of the latent."""
    import nodes as host

    conditioning = rig.prompt
    for text, (x, y, width, height) in BOXES.items():
        apply = host.GLIGENTextBoxApply().append
        (conditioning,) = apply(conditioning, small.Clip(), rig.gligen(), text, width, height, x, y)
    return conditioning


@pytest.mark.parametrize("with_schedule", [True, False], ids=["schedule node", "plain KSampler"])
def test_boxes_of_the_hosts_node_lie_where_ours_lie(rig, with_schedule):
    model = rig.schedule() if with_schedule else rig.model
    expected = rig.sample(rig.schedule(), ours(rig), size=TALL)
    assert relative(rig.sample(model, host_boxes(rig), size=TALL), expected) < 1e-5


def test_boxes_of_each_picture_as_kjnodes_writes_them_lie_where_ours_lie(rig):
    frames = []
    for x, y, width, height in BOXES.values():
        feature = small.Clip().encode_from_tokens("a star", "unprojected")[1]
        frames.append([(feature, height // 8, width // 8, y // 8, x // 8)])
    text, extra = rig.prompt[0]
    batched = [[text, {**extra, "gligen": ("position_batched", rig.gligen(), frames)}]]
    tokens = tokens_in(rig, rig.gligen(), batched, size=TALL, batch=2)
    for row, box in enumerate(BOXES.values()):
        expected = expected_tokens(rig.gligen(), {"a star": fractions(*box)})
        assert relative(tokens[row], expected[0]) < 1e-5


def as_detected():
    keys = ("x", "y", "width", "height")
    boxes = [dict(zip(keys, box, strict=True), label=text) for text, box in BOXES.items()]
    return {"boxes": [boxes], "width": PIXELS[1], "height": PIXELS[0]}


def as_elements():
    elements = []
    for text, box in BOXES.items():
        x, y, width, height = (1000 * v for v in fractions(*box))
        elements.append({"type": "obj", "bbox": [y, x, y + height, x + width], "desc": text})
    return {"boxes": elements}


def as_text():
    lines = [f"{text}: {', '.join(map(str, fractions(*box)))}" for text, box in BOXES.items()]
    return {"text": "\n".join(lines)}


def as_json():
    return {"text": json.dumps([{"phrase": t, "box": fractions(*b)} for t, b in BOXES.items()])}


@pytest.mark.parametrize("written", [as_detected, as_elements, as_text, as_json])
def test_boxes_in_every_form_lie_where_those_of_the_box_node_lie(rig, written):
    inputs = {"gligen": rig.gligen(), "clip": small.Clip(), **written()}
    (many,) = rig.node("GligenTextBoxes", conditioning=rig.prompt, **inputs)
    got = tokens_in(rig, rig.gligen(), many, size=TALL)
    assert relative(got, tokens_in(rig, rig.gligen(), ours(rig), size=TALL)) < 1e-6


def test_boxes_of_several_images_go_to_the_pictures_of_a_batch_one_by_one(rig):
    frames = [[box] for box in as_detected()["boxes"][0]]
    inputs = {**as_detected(), "boxes": frames, "gligen": rig.gligen(), "clip": small.Clip()}
    (many,) = rig.node("GligenTextBoxes", conditioning=rig.prompt, **inputs)
    got = tokens_in(rig, rig.gligen(), many, size=TALL, batch=2)
    for row, (text, box) in enumerate(BOXES.items()):
        expected = expected_tokens(rig.gligen(), {text: fractions(*box)})
        assert relative(got[row], expected[0]) < 1e-5


@pytest.mark.parametrize("in_pixels", [True, False], ids=["pixels", "fractions"])
def test_a_poses_points_are_x_and_y_in_fractions_of_its_canvas(rig, in_pixels):
    pose = [{"people": person()["people"] + person(0.3)["people"]}]
    points = torch.zeros(1, 8 * 17, 2)
    for number, one in enumerate(pose[0]["people"]):
        flat = one["pose_keypoints_2d"]
        for i in range(17):
            points[0, 17 * number + i] = torch.tensor(flat[3 * i : 3 * i + 2])
    if in_pixels:
        pose[0] |= {"canvas_width": PIXELS[1], "canvas_height": PIXELS[0]}
        for one in pose[0]["people"]:
            flat = one["pose_keypoints_2d"]
            flat[0::3] = [PIXELS[1] * v for v in flat[0::3]]
            flat[1::3] = [PIXELS[0] * v for v in flat[1::3]]
    gligen = rig.gligen("keypoints")
    mask = (torch.arange(8 * 17) < 2 * 17).double()[None]
    expected = reference.keypoint_tokens(tensors_of(gligen, "position_net."), points.double(), mask)
    got = tokens_in(rig, gligen, rig.keypoints(pose), size=TALL)
    assert relative(got, expected) < 1e-5


@pytest.mark.parametrize("use", ["image", "text and image", "style"])
def test_an_image_box_gives_its_picture_its_text_and_its_place_as_its_use_says(rig, use):
    gligen, clip = rig.gligen("text and image box"), Clip()
    embedding = torch.randn(1, 768, generator=torch.manual_seed(8))
    (positive,) = rig.node(
        "GligenImageBox", conditioning=rig.prompt, gligen=gligen, clip=clip, text="a clock",
        clip_vision_output={"image_embeds": embedding}, x=0.1, y=0.2, width=0.5, height=0.3, use=use,
    )  # fmt: skip
    image = embedding[0].double() @ clip.projection.double()
    corners = [0.0, 1.0, 0.0, 1.0] if use == "style" else [0.1, 0.2, 0.6, 0.5]
    inputs = torch.zeros(1, 30, 4), torch.zeros(1, 30), torch.zeros(1, 30), torch.zeros(1, 30)
    places, mask, text_mask, image_mask = (t.double() for t in inputs)
    text, pictures = torch.zeros(2, 1, 30, 768).double()
    places[0, 0] = torch.tensor(corners)
    mask[0, 0], image_mask[0, 0], text_mask[0, 0] = 1, 1, use == "text and image"
    text[0, 0] = clip.encode_from_tokens("a clock", "unprojected")[1]
    pictures[0, 0] = image / image.norm() * 28.7
    expected = reference.text_image_tokens(
        tensors_of(gligen, "position_net."), places, mask, text_mask, image_mask, text, pictures
    )
    assert relative(tokens_in(rig, gligen, positive, size=TALL), expected) < 1e-5


def test_grounding_in_an_area_is_of_the_area_and_changes_nothing_outside_of_it(rig):
    positive = in_area(ours(rig), *AREA) + rig.prompt
    without = rig.sample(rig.model, in_area(rig.prompt, *AREA) + rig.prompt, size=TALL)
    with_tokens = tokens_in(rig, rig.gligen(), positive, size=TALL)
    assert relative(with_tokens, tokens_in(rig, rig.gligen(), ours(rig), size=TALL)) < 1e-6
    changed = (rig.scheduled(positive, size=TALL) != without).any(1)[0]
    expected = torch.zeros(TALL, dtype=torch.bool)
    expected[5:23, 8:16] = True
    assert torch.equal(changed, expected)


def halves(across):
    """A picture that is black on its left, or its upper, half and white on the other."""
    image = torch.zeros(1, *PIXELS, 3)
    if across:
        image[:, :, 64:] = 1
    else:
        image[:, 96:] = 1
    return image


@pytest.mark.parametrize("across", [True, False], ids=["left and right", "above and below"])
def test_a_map_lies_on_the_picture_as_it_was_drawn(rig, across):
    mapped = rig.spatial_map(halves(across), "hed map")
    seen = extra_channels(rig, rig.gligen("hed map"), mapped, size=TALL)[0]
    black = seen[0, 0, :, :6] if across else seen[0, 0, :10]
    white = seen[0, 0, :, 10:] if across else seen[0, 0, 14:]
    assert torch.allclose(black, torch.tensor(-1.0), atol=0.05)
    assert torch.allclose(white, torch.tensor(1.0), atol=0.05)


def test_preview_draws_boxes_and_poses_where_they_are_on_a_picture_that_is_no_square(rig):
    from gligen_pack.gligen_ops.entities import PhraseBox, Pose
    from gligen_pack.gligen_ops.places import Box
    from gligen_pack.nodes.pictures.drawing import draw_boxes, draw_lines
    from gligen_pack.nodes.pictures.images import from_picture
    from PIL import Image

    points = torch.tensor(person()["people"][0]["pose_keypoints_2d"]).reshape(17, 3)[:, :2]
    grey = Image.new("RGB", (PIXELS[1], PIXELS[0]), (128, 128, 128))
    boxes = [PhraseBox(text, Box.from_size(*fractions(*box))) for text, box in BOXES.items()]
    expected = from_picture(draw_boxes(draw_lines(grey, [Pose(points).sketch()]), boxes))
    positive = rig.keypoints([person()], to=ours(rig))
    (drawn,) = rig.node("GligenPreview", conditioning=positive, width=PIXELS[1], height=PIXELS[0])
    (over,) = rig.node(
        "GligenPreview", conditioning=positive, image=torch.full((1, *PIXELS, 3), 128 / 255)
    )
    assert torch.equal(drawn[0], expected) and torch.equal(over[0], expected)
    (of_host,) = rig.node(
        "GligenPreview", conditioning=host_boxes(rig), width=PIXELS[1], height=PIXELS[0]
    )
    named = [PhraseBox(f"box {n}", b.box) for n, b in enumerate(boxes, start=1)]
    assert torch.equal(of_host[0], from_picture(draw_boxes(grey, named)))


def test_preview_numbers_boxes_of_one_name_and_leaves_out_what_is_off(rig):
    from gligen_pack.gligen_ops.entities import PhraseBox
    from gligen_pack.gligen_ops.places import Box
    from gligen_pack.nodes.pictures.drawing import draw_boxes
    from gligen_pack.nodes.pictures.images import from_picture
    from PIL import Image

    boxes = [(0.1, 0.1, 0.3, 0.3), (0.6, 0.1, 0.3, 0.3)]
    positive = rig.text_box("a cat", *boxes[0], to=rig.text_box("a cat", *boxes[1]))
    positive = rig.text_box("a dog", 0.1, 0.6, 0.8, 0.3, to=positive, strength=0.0)
    (drawn,) = rig.node("GligenPreview", conditioning=positive, width=256, height=256)
    expected = [PhraseBox(f"a cat {n}", Box.from_size(*b)) for n, b in enumerate(boxes[::-1], 1)]
    grey = Image.new("RGB", (256, 256), (128, 128, 128))
    assert torch.equal(drawn[0], from_picture(draw_boxes(grey, expected)))
