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
from gligen_pack.demo import world
from gligen_pack.demo.training import eye
from PIL import Image
from safetensors import safe_open

DEMO = Path(__file__).resolve().parents[1] / "demo"
WEIGHTS = sorted((DEMO / "weights").glob("*.safetensors"))
BASE = ("unet", "text", "vae")
ADAPTERS = ("boxes", "images", "keypoints", "canny", "inpainting")


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


def test_base_and_text_boxes_are_at_most_8_mb_in_all_and_each_other_adapter_2_mb():
    sizes = {f.stem: f.stat().st_size for f in WEIGHTS}
    assert set(sizes) == {*BASE, *ADAPTERS, "vision", "joints"}
    assert sum(sizes[name] for name in (*BASE, "boxes")) <= 8_000_000
    assert max(sizes[name] for name in (*ADAPTERS, "vision", "joints")) <= 2_000_000


def test_the_base_knows_nothing_of_grounding():
    with safe_open(DEMO / "weights" / "unet.safetensors", "pt") as file:
        assert not [k for k in file.keys() if "fuser" in k or "position_net" in k]  # noqa: SIM118


def test_the_gates_opened_during_training_from_zero():
    rows = [
        json.loads(line)
        for line in (DEMO / "training" / "gates" / "boxes.jsonl").read_text().splitlines()
    ]
    blocks = [k for k in rows[0] if k != "step"]
    assert rows[0]["step"] == 0 and rows[-1]["step"] > 1000 and len(blocks) > 3
    for block in blocks:
        assert max(map(abs, rows[0][block])) < 0.02
        assert max(map(abs, rows[-1][block])) > 0.1


@pytest.fixture(scope="module")
def measures(pack):
    from gligen_pack.measuring import measures

    return measures


@pytest.fixture(scope="module")
def demo(measures):
    return measures.Demo()


def means(measures, name, tau, count):
    """Of each figure of a measure, over so many scenes."""
    measure = measures.MEASURES[name]
    demo, values = measures.Demo(measure.kind), {}
    for seed, scene in enumerate(measure.scenes(count)):
        positive, *latent = measure.grounded(demo, scene)
        picture = demo.sample(positive, tau, seed, *latent)
        for figure, more in measure.figures(demo, picture, scene).items():
            values.setdefault(figure, []).extend(more)
    return {figure: np.mean(found) for figure, found in values.items() if found}


@pytest.mark.parametrize(
    ("name", "figure", "without", "grounded"),
    [
        ("boxes", "in place", 0.25, 0.85),
        ("images", "in place", 0.2, 0.55),
        ("style", "coloured pixels in the style's colour", 0.5, 0.8),
        ("keypoints", "joints within 5%", 0.2, 0.55),
        ("canny", "edge agreement", 0.25, 0.4),
        ("inpainting", "in place", 0.6, 0.7),
    ],
)
def test_a_picture_keeps_to_its_grounding_and_without_it_does_not(
    measures, name, figure, without, grounded
):
    count = 12 if name == "boxes" else 8
    assert means(measures, name, 0.0, count)[figure] < without
    assert means(measures, name, 1.0, count)[figure] > grounded


def persons():
    (inputs,) = [
        node["inputs"]
        for node in json.loads((API / "demo_keypoints.json").read_text()).values()
        if node["class_type"] == "GligenKeypoints"
    ]
    people = json.loads(inputs["json"])
    return [
        world.Thing(colour, world.FIGURE, (0.0, 0.1, 1.0, 0.9), tuple(map(tuple, joints)))
        for colour, joints in zip(("red", "blue"), people, strict=True)
    ]


def thing(name, x, y, width, height):
    return world.Thing(*name.split(), (x, y, x + width, y + height))


API = DEMO.parent / "example_workflows" / "api"
CROSS = thing("green cross", 0.06, 0.08, 0.36, 0.36)
BEST = {  # what the picture of a demo shows at best, and what is said of it
    "text_boxes": (
        [
            thing("red circle", 0.06, 0.08, 0.34, 0.34),
            thing("blue star", 0.56, 0.1, 0.36, 0.38),
            thing("yellow square", 0.3, 0.56, 0.44, 0.34),
        ],
        "3 of 3 in place",
    ),
    "image_boxes": (
        [thing("red star", 0.06, 0.1, 0.4, 0.4), thing("blue ring", 0.52, 0.48, 0.42, 0.42)],
        "2 of 2 in place",
    ),
    "style": ([thing("purple star", 0.1, 0.1, 0.4, 0.4)], "purple, as the style is: 100%"),
    "keypoints": (persons(), "Mean joint error: 0."),
    "canny": (
        [
            thing("red star", 0.08, 0.08, 0.42, 0.42),
            thing("blue circle", 0.56, 0.2, 0.34, 0.34),
            thing("cyan square", 0.3, 0.62, 0.4, 0.3),
        ],
        "of slack): 1.00",
    ),
    "inpainting": (
        [CROSS, thing("blue circle", 0.56, 0.56, 0.36, 0.36), thing("yellow star", 0.55, 0.08, 0.38, 0.38)],
        "1 of 1 in place",
    ),
}  # fmt: skip


@pytest.fixture
def said_of(pack, tmp_path, capsys):
    from gligen_pack.measuring import show

    def said_of(name, things):
        picture = (world.render(world.Scene(tuple(things))) * 255).round().astype(np.uint8)
        Image.fromarray(picture).resize((512, 512)).save(tmp_path / "picture.png")
        files = tmp_path / "picture.png", API / f"demo_{name}.json", tmp_path / "out.png"
        show.main(files)
        with Image.open(files[2]) as annotated:
            assert annotated.size == (512, 512)
        return capsys.readouterr().out

    return said_of


@pytest.mark.parametrize("name", BEST)
def test_a_demo_says_how_good_its_picture_is(name, said_of):
    things, words = BEST[name]
    assert words in said_of(name, things)


def test_a_demo_says_where_its_picture_is_not_good(said_of):
    assert "0 of 3 in place" in said_of("text_boxes", [CROSS])


def test_every_demo_is_among_them():
    assert {file.stem.removeprefix("demo_") for file in API.glob("demo_*.json")} == set(BEST)


def test_a_demo_picture_shows_what_its_lines_say(pack):
    from gligen_pack.nodes.demo_picture import GligenDemoPicture

    lines = "a red star: 0.1, 0.1, 0.35, 0.35\nThe Blue RING: 0.55, 0.5, 0.4, 0.4"
    (image,) = GligenDemoPicture.execute(lines, "top").result
    assert image.shape == (1, 128, 128, 3)
    found = eye.detect(image[0].numpy())
    assert {(f.colour, f.shape) for f in found} == {("red", "star"), ("blue", "ring")}
    (empty,) = GligenDemoPicture.execute("", "left").result
    assert eye.detect(empty[0].numpy()) == []


def test_every_thing_that_the_demo_cannot_paint_is_told_at_once(pack):
    from gligen_pack.gligen_ops.errors import GligenError
    from gligen_pack.nodes.demo_picture import GligenDemoPicture

    lines = "a red cat: 0, 0, 0.5, 0.5\na star: 0.5, 0, 0.5, 0.5\npink ring: 0.5, 0.5, 0.4, 0.4"
    with pytest.raises(GligenError) as error:
        GligenDemoPicture.execute(lines, "left")
    for word in ("a red cat", "a star", "pink ring", "cyan", "cross", "person"):
        assert word in str(error.value)


def test_the_page_of_the_demo_has_the_figures_that_were_measured():
    from gligen_pack.measuring.figures import FILE, PAGE, table

    results = json.loads(FILE.read_text())
    assert set(results) == {"boxes", "images", "style", "keypoints", "canny", "inpainting"}
    assert table(results) in PAGE.read_text(encoding="utf-8")


def test_the_demo_gligen_is_read_by_the_same_loader_as_any_file(demo):
    gligen = demo.gligen.model.net
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
