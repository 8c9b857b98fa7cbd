"""Where the training keeps its state and the finished weights."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .device import DEVICE

FOLDER = Path(os.environ.get("GLIGEN_DEMO", Path(__file__).parent))
RUN = FOLDER / "run"
WEIGHTS = FOLDER / "weights"
NOTICE = (
    "Trained on pictures composed of Fluent Emoji, Copyright (c) Microsoft Corporation, MIT License: see "
    "THIRD_PARTY_NOTICES.md of this project."
)


def save_weights(name: str, tensors: dict, dtype=torch.float16, **metadata) -> Path:
    """Write demo/weights/NAME.safetensors; metadata values are stored as JSON."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    file = WEIGHTS / f"{name}.safetensors"
    tensors = {
        k: (v.to(dtype) if v.is_floating_point() else v).contiguous() for k, v in tensors.items()
    }
    save_file(tensors, file, {"notice": NOTICE, **{k: json.dumps(v) for k, v in metadata.items()}})
    return file


def load_weights(name: str, device=DEVICE) -> dict[str, torch.Tensor]:
    """The tensors of demo/weights/NAME.safetensors, in float32."""
    tensors = load_file(WEIGHTS / f"{name}.safetensors", device=str(device))
    return {name: tensor.float() for name, tensor in tensors.items()}
