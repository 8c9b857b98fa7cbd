"""The world of little pictures that the demo is to draw next, and what will train it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from gligen_pack.demo.emoji import drawing, world
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("vae", "base", "vision", "boxes", "images", "canny")


def scenes(count=12):
    rng = np.random.default_rng(0)
    return [world.Scene.random(rng) for _ in range(count)]


def test_a_scene_is_drawn_the_same_each_time_with_each_thing_in_its_box():
    for scene in scenes():
        drawn, again = drawing.layers(scene), drawing.layers(scene)
        assert np.array_equal(drawn.picture, again.picture)
        for number, thing in enumerate(scene.things):
            rows, columns = (drawn.owner == drawing.FIRST + number).nonzero()
            assert len(rows), thing.name
            x0, y0, x1, y1 = (v * world.SIZE for v in thing.box)
            assert x0 - 1 <= columns.min() and columns.max() <= x1 + 1
            assert y0 - 1 <= rows.min() and rows.max() <= y1 + 1


def test_a_caption_names_every_thing():
    rng = np.random.default_rng(1)
    for scene in scenes():
        caption = world.caption(scene, rng)
        assert all(thing.name in caption for thing in scene.things)


def test_each_stage_makes_weights_that_name_their_source(host_path, tmp_path):
    steps = [f"--{stage}-steps=1" for stage in STAGES]
    environment = {**os.environ, "GLIGEN_DEMO": str(tmp_path), "COMFYUI_PATH": str(host_path)}
    command = [sys.executable, "-m", "devtools.pack", "demo.emoji.train", "--scenes=8", *steps]
    result = subprocess.run(
        [*command, *STAGES],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    files = list((tmp_path / "weights").glob("*.safetensors"))
    assert {file.stem for file in files} >= {"unet", "text", *STAGES} - {"base"}
    for file in files:
        with safe_open(file, "pt") as opened:
            assert "Fluent Emoji" in opened.metadata()["notice"]
