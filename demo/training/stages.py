"""Where the training keeps its state and the finished weights."""

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

FOLDER = Path(os.environ.get("GLIGEN_DEMO", Path(__file__).parents[1]))
RUN = FOLDER / "run"
WEIGHTS = FOLDER / "weights"
GATES = FOLDER / "training" / "gates"


def save_weights(name: str, tensors: dict, dtype=torch.float16, **metadata) -> Path:
    """Write demo/weights/NAME.safetensors; metadata values are stored as JSON."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    file = WEIGHTS / f"{name}.safetensors"
    tensors = {
        k: (v.to(dtype) if v.is_floating_point() else v).contiguous() for k, v in tensors.items()
    }
    save_file(tensors, file, {k: json.dumps(v) for k, v in metadata.items()})
    return file


def load_weights(name: str) -> dict[str, torch.Tensor]:
    """The tensors of demo/weights/NAME.safetensors, in float32."""
    with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
        return {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
