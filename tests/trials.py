"""For every input of every node two values that must lead to two results."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import small
import torch
from rig import Clip, Vae, person, picture

BOX = {"x": 0.1, "y": 0.2, "width": 0.6, "height": 0.4}
OTHER_BOX = {"x": 0.2, "y": 0.1, "width": 0.3, "height": 0.5}
INPAINTING = "text box inpainting"


@dataclass
class Where:
    """A value that shows only where other inputs have these values."""

    value: object
    others: dict = field(default_factory=dict)


def trial(rig, node):
    """What a node is given, and of each of its inputs another value."""
    return globals()[node](rig)


def grounding(rig, kind="text box"):
    """The inputs that all nodes which ground have."""
    given = {"conditioning": rig.prompt, "gligen": rig.gligen(kind), "strength": 1.0}
    other = {"conditioning": small.conditioning(3), "gligen": rig.gligen(kind, 1), "strength": 0.5}
    return given, other


def other_clip():
    clip = Clip(seed=3)
    clip.projection = Clip.projection.roll(1, 0)
    return clip


def seen(seed):
    return {"image_embeds": torch.randn(1, 768, generator=torch.manual_seed(seed))}


def linked(x):
    return [{"x": x, "y": 30, "width": 90, "height": 60, "label": "a star"}]


def GligenTextBox(rig):
    given, other = grounding(rig)
    return (
        {**given, "clip": Clip(), "text": "a cat", **BOX},
        {**other, "clip": other_clip(), "text": "a dog", **OTHER_BOX},
    )


def GligenTextBoxes(rig):
    given, other = grounding(rig)
    given |= {"clip": Clip(), "text": "a cat: 0.1, 0.2, 0.3, 0.4"}
    other |= {"clip": other_clip(), "text": "a cat: 0.2, 0.2, 0.3, 0.4"}
    return (
        {**given, "boxes": linked(10), "width": 200, "height": 100},
        {**other, "boxes": linked(20), "width": 150, "height": 120},
    )


def GligenImageBox(rig):
    given, other = grounding(rig, "text and image box")
    given |= {"clip_vision_output": seen(1), "clip": Clip(), "text": "a cat", **BOX}
    other |= {"clip_vision_output": seen(2), "clip": other_clip(), "text": "a dog", **OTHER_BOX}
    return (
        {**given, "use": "text and image", "projection": "of the CLIP"},
        {**other, "use": "image", "projection": "projection_other.pt"},
    )


def GligenKeypoints(rig):
    given, other = grounding(rig, "keypoints")
    unsure, json = person(), str([[[0.1 + 0.04 * i, 0.2 + 0.03 * i] for i in range(17)]])
    unsure["people"][0]["pose_keypoints_2d"][2] = 0.5  # the score of the nose
    typed = Where(json.replace("0.1,", "0.15,"), {"pose_keypoint": None})
    return (
        {**given, "pose_keypoint": [unsure], "json": json, "confidence": 0.3},
        {**other, "pose_keypoint": [person(0.2)], "json": typed, "confidence": 0.8},
    )


def GligenSpatialMap(rig):
    """Of a wall, whose colour is a grey that is a class's number too, and a building."""
    given, other = grounding(rig, "semantic map")
    wall = torch.full((1, 32, 64, 3), 120 / 255)
    beside, above = wall.clone(), wall.clone()
    beside[:, :, 32:, 0] = above[:, :16, :, 0] = 180 / 255
    return (
        {**given, "image": beside, "classes": "automatic"},
        {**other, "image": above, "classes": Where("palette", {"image": wall})},
    )


def GligenInpaint(rig):
    upper = torch.zeros(1, 64, 128)
    upper[:, :32] = 1
    boxes, others = (rig.text_box("a cat", *b.values(), kind=INPAINTING) for b in (BOX, OTHER_BOX))
    alone = {"conditioning": rig.prompt}
    return (
        {"conditioning": boxes, "gligen": rig.gligen(INPAINTING), "vae": Vae(),
         "image": picture(1), "mask": upper},
        {"conditioning": others, "gligen": Where(rig.gligen(), alone), "vae": Vae(2.0),
         "image": picture(2), "mask": None},
    )  # fmt: skip


def scheduled(rig):
    return (
        {"model": rig.model, "tau": 0.25, "decay": 0.5, "strength": 1.0,
         "negative_grounding": "null", "refresh_every": 1},
        {"model": rig.other_model, "tau": 0.5, "decay": 0.25, "strength": 0.5,
         "negative_grounding": "none", "refresh_every": 2},
    )  # fmt: skip


def GligenFitToRegion(rig):
    positive, other = (
        rig.text_box("a cat", *BOX.values()),
        rig.text_box("a dog", *OTHER_BOX.values()),
    )
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 1:4] = 1
    segs = (64, 64), [SimpleNamespace(crop_region=[8, 0, 40, 48])]
    stitcher = dict.fromkeys((f"canvas_to_orig_{side}" for side in "xy"), [0])
    stitcher |= dict.fromkeys((f"canvas_to_orig_{side}" for side in "wh"), [64])
    crop = zip("xywh", ([16], [8], [40], [30]), strict=True)
    stitcher |= {f"cropped_to_canvas_{side}": value for side, value in crop}
    links = {"mask": None, "segs": None, "stitcher": None, "follow_detailer": False}
    return (
        {"conditioning": positive, "x": 0.0, "y": 0.0, "width": 0.75, "height": 0.75, **links},
        {"conditioning": other, "x": 0.125, "y": 0.125, "width": 0.5, "height": 0.5, "mask": mask,
         "segs": segs, "stitcher": stitcher, "follow_detailer": True},
    )  # fmt: skip


def GligenMove(rig):
    curve = {"points": [[0.0, 0.5], [1.0, 1.0]], "interpolation": "linear"}
    return (
        {"begin": rig.text_box("a cat", *BOX.values()), "end": rig.text_box("a cat", *OTHER_BOX.values()),
         "frames": 3, "curve": None},
        {"begin": rig.text_box("a cat", 0.5, 0.5, 0.5, 0.5),
         "end": rig.text_box("a cat", 0.5, 0.5, 0.5, 0.5), "frames": 2, "curve": curve},
    )  # fmt: skip


def GligenBetaSchedule(rig):
    given, other = scheduled(rig)
    curve = {"points": [[0.0, 1.0], [1.0, 0.5]], "interpolation": "linear"}
    return {**given, "curve": None, "count": "steps"}, {
        **other,
        "curve": curve,
        "count": "noise level",
    }


def GligenKSampler(rig):
    given, other = scheduled(rig)
    latent = torch.randn(1, 4, 8, 16, generator=torch.manual_seed(4))
    return (
        {**given, "seed": 1, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal",
         "positive": rig.text_box("a cat", *BOX.values()), "negative": rig.negative,
         "latent_image": {"samples": latent}, "denoise": 0.9},
        {**other, "seed": 2, "steps": 3, "cfg": 2.0, "sampler_name": "heun", "scheduler": "karras",
         "positive": rig.prompt, "negative": small.conditioning(3),
         "latent_image": {"samples": 2 * latent}, "denoise": 0.5},
    )  # fmt: skip


def GligenPreview(rig):
    boxes, others = (rig.text_box("a cat", *b.values()) for b in (BOX, OTHER_BOX))
    canvas = {"image": None}
    return (
        {"conditioning": boxes, "image": None, "width": 80, "height": 48},
        {"conditioning": others, "image": picture(1, size=(48, 80)),
         "width": Where(64, canvas), "height": Where(64, canvas)},
    )  # fmt: skip


def GligenAttention(rig):
    return {"model": rig.schedule()}, {"model": rig.schedule(strength=0.5)}


def GligenAttentionMaps(rig):
    def attention(box):
        model, attention = rig.node("GligenAttention", model=rig.schedule())
        rig.sample(model, rig.text_box("a cat", *box.values()), steps=2)
        return attention

    return (
        {"attention": attention(BOX), "image": picture(1), "layers": "all",
         "first_step": 0, "last_step": 10000},
        {"attention": attention(OTHER_BOX), "image": picture(2), "layers": "output",
         "first_step": 1, "last_step": 0},
    )  # fmt: skip


def GligenModelLoader(rig):
    return {"gligen_name": "one.safetensors"}, {"gligen_name": "other.safetensors"}


def GligenModelSave(rig):
    return (
        {"gligen": rig.gligen(), "filename_prefix": "gligen/part"},
        {"gligen": rig.gligen(seed=1), "filename_prefix": "elsewhere/part"},
    )


def GligenDemoModel(rig):
    return {"kind": "text box"}, {"kind": "keypoints"}


def GligenDemoPicture(rig):
    return (
        {"things": "a red star: 0.2, 0.2, 0.6, 0.6", "light": "left"},
        {"things": "a red star: 0.3, 0.2, 0.6, 0.6", "light": "top"},
    )
