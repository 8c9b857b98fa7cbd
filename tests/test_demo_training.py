"""The demo model's training from nothing, a few steps of each stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

STAGES = (
    *("vae", "base", "decoder", "vision", "joints"),
    *("boxes", "images", "keypoints", "canny", "inpainting"),
)
ROOT = Path(__file__).resolve().parents[1]


def train(folder, host_path, *stages):
    steps = [f"--{stage}-steps=2" for stage in STAGES]
    environment = {**os.environ, "GLIGEN_DEMO": str(folder), "COMFYUI_PATH": str(host_path)}
    result = subprocess.run(
        [sys.executable, "-m", "devtools.pack", "demo.training.train", "--scenes=16", *steps, *stages],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]


def names(folder, part):
    with safe_open(folder / "weights" / f"{part}.safetensors", "pt") as file:
        return set(file.keys())


def test_each_stage_makes_its_part_of_what_ships(host_path, tmp_path):
    shipped = ROOT / "demo"
    train(tmp_path, host_path, "vae", "base")
    made = {part: tmp_path / "weights" / f"{part}.safetensors" for part in ("unet", "text", "vae")}
    before = {part: file.read_bytes() for part, file in made.items()}
    train(tmp_path, host_path, *STAGES[2:])
    assert made["unet"].read_bytes() == before["unet"]  # the base is frozen
    assert made["text"].read_bytes() == before["text"]
    assert made["vae"].read_bytes() != before["vae"]
    for part in (*made, *STAGES[3:]):
        assert names(tmp_path, part) == names(shipped, part)
    log = Path("training") / "gates" / "boxes.jsonl"
    gates = [json.loads(line) for line in (tmp_path / log).read_text().splitlines()]
    shipped_gates = json.loads((shipped / log).read_text().splitlines()[0])
    assert [row["step"] for row in gates] == [0, 1] and gates[0].keys() == shipped_gates.keys()
