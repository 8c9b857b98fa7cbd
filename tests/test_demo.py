"""The demo world, and the committed demo model in the real host."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gligen_pack.demo import eye, world
from safetensors import safe_open

DEMO = Path(__file__).resolve().parents[1] / "demo"
WEIGHTS = sorted((DEMO / "weights").glob("*.safetensors"))


def test_the_eye_finds_every_shape_that_the_brush_painted():
    rng = np.random.default_rng(50)
    for _ in range(40):
        scene = world.Scene.random(rng, world.pairs())
        found = eye.detect(world.render(scene))
        for t in scene.things:
            assert eye.box_accuracy(found, t.colour, t.shape, t.box) > 0.75, t


def test_the_eye_does_not_mistake_colour_or_shape():
    rng = np.random.default_rng(51)
    for _ in range(20):
        scene = world.Scene.random(rng, [("red", "circle")], count=1)
        found = eye.detect(world.render(scene))
        assert [(f.colour, f.shape) for f in found] == [("red", "circle")]


def test_held_out_pairs_are_no_part_of_the_grounding_data():
    kept = world.pairs(held_out=False)
    assert len(kept) == 30 and not set(kept) & set(world.HELD_OUT)
    colours, shapes = zip(*world.HELD_OUT, strict=True)
    assert set(colours) == set(world.COLOURS) and set(shapes) == set(world.SHAPES)


def test_weights_are_safetensors_of_at_most_8_mb_in_all():
    assert {f.stem for f in WEIGHTS} == {"gligen", "text", "unet", "vae"}
    assert sum(f.stat().st_size for f in WEIGHTS) <= 8_000_000


def test_the_base_knows_nothing_of_grounding():
    with safe_open(DEMO / "weights" / "unet.safetensors", "pt") as file:
        assert not [k for k in file.keys() if "fuser" in k or "position_net" in k]  # noqa: SIM118


def test_the_gates_opened_during_training_from_zero():
    rows = [json.loads(line) for line in (DEMO / "gates.jsonl").read_text().splitlines()]
    blocks = [k for k in rows[0] if k != "step"]
    assert rows[0]["step"] == 0 and rows[-1]["step"] > 1000 and len(blocks) > 3
    for block in blocks:
        assert max(map(abs, rows[0][block])) < 0.02
        assert max(map(abs, rows[-1][block])) > 0.1


@pytest.fixture(scope="module")
def demo(pack):
    from gligen_pack.demo.measure import Demo

    return Demo()


@pytest.fixture(scope="module")
def accuracy(demo):
    """Share of boxes with their object in place (IoU > 0.5), for τ = 0 and 1."""
    from gligen_pack.demo.measure import layouts

    def share(tau):
        hits = [
            eye.box_accuracy(found, t.colour, t.shape, t.box) > 0.5
            for seed, scene in enumerate(layouts(12))
            for found in [eye.detect(demo.picture(scene, tau, seed))]
            for t in scene.things
        ]
        return np.mean(hits)

    return {tau: share(tau) for tau in (0.0, 1.0)}


def test_objects_stand_in_their_boxes_with_grounding_and_not_without(accuracy):
    assert accuracy[0.0] < 0.25
    assert accuracy[1.0] > 0.85


def test_the_demo_gligen_is_read_by_the_same_loader_as_any_file(demo):
    gligen = demo.gligen.model.gligen
    assert gligen.position_net.text_width == 64 and gligen.kind.name == "text box"
    gates = [g for b in gligen.widths for g in gligen.layer(b).gates()]
    assert all(torch.isfinite(g) for g in gates)


def test_the_autoencoder_returns_a_picture_of_the_world(demo):
    picture = world.render(world.Scene.random(np.random.default_rng(52), world.pairs(), count=2))
    with torch.inference_mode():
        latent = demo.vae.encode(torch.from_numpy(picture)[None])
        assert latent.shape == (1, 4, 16, 16)
        again = demo.vae.decode(latent)[0].clamp(0, 1).numpy()
    assert np.abs(again - picture).mean() < 0.04


def test_the_first_command_of_the_readme_makes_its_picture(host_path, tmp_path):
    """dev.py of a copy of the repository, with the ComfyUI and the Python that run the tests."""
    copied = shutil.copytree(
        DEMO.parent, tmp_path / "pack", ignore=shutil.ignore_patterns(".*", "run", "output")
    )
    result = subprocess.run(
        [sys.executable, copied / "dev.py", "demo"],
        env={**os.environ, "COMFYUI_PATH": str(host_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Box accuracy: 3 of 3 in place" in result.stdout
    names = {file.name for file in (copied / "output").iterdir()}
    assert names == {"demo_text_boxes.png", "demo_text_boxes_boxes.png"}
