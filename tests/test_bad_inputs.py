"""Whatever comes in, one message of the pack's own that names the input, at once, and nothing grounded."""

import json
import time

import pytest
import torch
from gligen_pack.gligen_ops.entities import PhraseBox
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.places import Box
from gligen_pack.gligen_ops.schedule import BetaSchedule
from gligen_pack.nodes.layouts.boxes import check_boxes, gather_frames
from gligen_pack.nodes.layouts.poses import poses
from rig import Clip, Vae, person, picture

NAN, INF = float("nan"), float("inf")
BOX = '[{"phrase": "a cat", "x": %s, "y": 0, "width": 1, "height": 1}]'
POINTS = "[[" + ", ".join(["[%s, 0.5]"] * 17) + "]]"


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_json_that_is_nested_too_deeply(depth, brackets):
    text = brackets[:-1] * depth + brackets[-1] * depth
    with pytest.raises(GligenError, match="(?s)text.*(nested too deeply|stops making sense)"):
        gather_frames(text)
    with pytest.raises(GligenError, match="json: .*(nested too deeply|stops making sense)"):
        poses(None, text, 0.3)


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "NaN", "Infinity", "-Infinity", "1e999"])
def test_json_with_numbers_that_are_none(number):
    with pytest.raises(
        GligenError, match=r"Box 1 \(a cat\): x, y, width and height must be four numbers"
    ):
        gather_frames(BOX % number)
    with pytest.raises(GligenError, match="no person in it"):
        poses(None, POINTS % ((number,) * 17), 0.3)


@pytest.mark.parametrize("row", [5, "x", {}, [1], [1, 2, 3, 4], True])
def test_a_row_among_points_that_is_none(row):
    rows = [[0.5, 0.5]] * 16
    with pytest.raises(
        GligenError, match="person 1: it has 17 points; expected 17 .* each x and y"
    ):
        poses(None, json.dumps([[*rows, row]]), 0.3)


@pytest.mark.parametrize(
    "line", ["a cat: " + "9" * 50_000 + "x, 1, 1, 1", "a:" * 20_000 + " 1 2 3", "," * 90_000]
)
def test_a_long_line_is_read_at_once(line):
    begin = time.process_time()
    with pytest.raises(GligenError, match="Line 1"):
        gather_frames(line)
    assert time.process_time() - begin < 1


def test_what_a_paste_leaves_before_json_does_not_matter():
    assert gather_frames("\ufeff" + BOX % 0) == gather_frames(BOX % 0)


def test_half_a_character_in_a_phrase():
    with pytest.raises(GligenError, match="half a character"):
        check_boxes([PhraseBox("a cat \ud83d", Box(0, 0, 1, 1))])


@pytest.mark.parametrize("strength", [NAN, INF, -0.1])
def test_strengths_that_are_none(rig, strength):
    with pytest.raises(GligenError, match="strength: it is"):
        rig.text_box("a cat", 0.1, 0.1, 0.5, 0.5, strength=strength)
    with pytest.raises(GligenError, match="strength: it is"):
        rig.schedule(strength=strength)


@pytest.mark.parametrize("share", [NAN, INF, -0.1, 1.1])
@pytest.mark.parametrize("name", ["tau", "decay"])
def test_shares_that_are_none(rig, name, share):
    with pytest.raises(GligenError, match=f"{name}: it is"):
        rig.schedule(**{"tau": 0.0, name: share})


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_curve_with_a_hole(value):
    with pytest.raises(GligenError, match="curve: somewhere it is no number"):
        BetaSchedule(curve=lambda _: value).betas(4)


BAD_PICTURES = {
    "no picture": torch.zeros(0, 64, 64, 3),
    "no rows": torch.zeros(1, 0, 64, 3),
    "no batch": torch.zeros(64, 64, 3),
    "two channels": torch.zeros(1, 64, 64, 2),
    "not a number": torch.full((1, 64, 64, 3), NAN),
    "one pixel that is none": torch.ones(1, 64, 64, 3).index_fill(1, torch.tensor([5]), INF),
}


@pytest.mark.parametrize("image", BAD_PICTURES.values(), ids=BAD_PICTURES)
@pytest.mark.parametrize("node", ["map", "inpaint", "preview"])
def test_pictures_that_are_none(rig, node, image):
    boxed = rig.text_box("a cat", 0.1, 0.1, 0.5, 0.5)
    with pytest.raises(GligenError, match="image: "):
        if node == "map":
            rig.spatial_map(image)
        elif node == "preview":
            rig.node("GligenPreview", conditioning=boxed, image=image)
        else:
            rig.node(
                "GligenInpaint", conditioning=boxed, gligen=rig.gligen(), vae=Vae(), image=image
            )


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_smallest_pictures_are_pictures(rig, size, channels):
    image = torch.rand(1, *size, channels)
    boxed = rig.text_box("a cat", 0.1, 0.1, 0.5, 0.5)
    (drawn,) = rig.node("GligenPreview", conditioning=boxed, image=image)
    assert drawn.shape == (1, *size, 3)
    assert rig.sample(rig.model, rig.spatial_map(image)).isfinite().all()


@pytest.mark.parametrize("mask", [torch.zeros(0, 64, 96), torch.full((1, 64, 96), NAN)])
def test_masks_that_are_none(rig, mask):
    boxed = rig.text_box("a cat", 0.1, 0.1, 0.5, 0.5)
    inputs = {
        "gligen": rig.gligen(),
        "vae": Vae(),
        "image": picture(3, size=(64, 96)),
        "mask": mask,
    }
    with pytest.raises(GligenError, match="mask: "):
        rig.node("GligenInpaint", conditioning=boxed, **inputs)


def test_a_reference_picture_without_numbers(rig):
    kind = "text and image box"
    seen = {"image_embeds": torch.full((1, 768), NAN)}
    with pytest.raises(GligenError, match="clip_vision_output: "):
        rig.node(
            "GligenImageBox", conditioning=rig.prompt, gligen=rig.gligen(kind), clip=Clip(),
            clip_vision_output=seen, use="image",
        )  # fmt: skip


@pytest.mark.parametrize("confidence", [NAN, INF, 2.0])
def test_a_confidence_that_nothing_reaches_is_told(rig, confidence):
    with pytest.raises(GligenError, match="none of its points is sure enough"):
        rig.keypoints([person()], confidence=confidence)


@pytest.mark.parametrize(
    "dtypes, expected",
    [
        ([torch.float16] * 2, torch.float16),
        ([torch.float8_e4m3fn, torch.float16], torch.float16),
        ([torch.float16, torch.bfloat16], torch.float32),
        ([torch.bfloat16, torch.float32], torch.float32),
    ],
)
def test_a_file_of_several_dtypes_loses_nothing(rig, dtypes, expected):
    from gligen_pack.nodes.seam.gligens import widest

    assert widest([torch.zeros(1, dtype=dtype) for dtype in dtypes]) == expected


@pytest.fixture
def output(tmp_path, monkeypatch):
    import folder_paths

    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


@pytest.mark.parametrize("prefix", ["../outside/gligen", "/outside/gligen", "a/../../gligen"])
def test_nothing_is_saved_outside_of_the_output_folder(rig, output, prefix):
    with pytest.raises(
        GligenError, match="filename_prefix: .* leads out of ComfyUI's output folder"
    ):
        rig.node("GligenModelSave", gligen=rig.gligen(), filename_prefix=prefix)
    assert [*output.parent.rglob("*.safetensors*")] == []


def test_a_save_that_fails_leaves_the_old_file_and_nothing_half(rig, output, monkeypatch):
    from gligen_pack.gligen_ops.files import checkpoint

    def fails(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    rig.node("GligenModelSave", gligen=rig.gligen(), filename_prefix="gligen")
    (file,) = output.iterdir()
    before = file.read_bytes()
    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(GligenError, match="could not be written: .*No space left"):
        rig.node("GligenModelSave", gligen=rig.gligen(), filename_prefix="gligen")
    assert [*output.iterdir()] == [file] and file.read_bytes() == before


def test_the_loader_works_in_a_process_without_a_server(rig, tmp_path, monkeypatch):
    import sys

    import folder_paths
    from files import random_text_box_tensors, save_pruned, scaled
    from gligen_pack.gligen_ops.model import Block

    widths = scaled({Block("middle", 0, 0): 1280}, 40)
    save_pruned(tmp_path / "one.safetensors", random_text_box_tensors(widths))
    found = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "gligen", found)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.delitem(sys.modules, "server", raising=False)
    (gligen,) = rig.node("GligenModelLoader", gligen_name="one.safetensors")
    assert gligen.model.name == "one.safetensors" and "server" not in sys.modules
