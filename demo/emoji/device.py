"""Where the demo is trained, and how a GPU is kept busy by models that are so small."""

from functools import cache

import torch
from torch import Tensor, nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half():
    """Arithmetic in bfloat16 where that is precise enough, on a GPU: few CPUs are fast at it."""
    on_gpu = DEVICE.type == "cuda"
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=on_gpu, cache_enabled=False)


def graphed(loss: nn.Module, *inputs: Tensor) -> nn.Module:
    """The same loss, on CUDA as one graph: its thousand small kernels would else wait for Python. inputs:
    examples of its arguments. The loss has to draw its examples on the device."""
    if DEVICE.type == "cpu":
        return loss
    return torch.cuda.make_graphed_callables(loss, inputs, allow_unused_input=True)


def number(value: float) -> Tensor:
    return torch.full((), value, device=DEVICE)


@cache
def constant(*values) -> Tensor:
    """A tensor of these numbers, on the device: brought there once, as a graph may not do it."""
    return torch.tensor(values, device=DEVICE)
