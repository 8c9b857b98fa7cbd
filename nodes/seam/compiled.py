"""Compilations of a UNet that the host compiles, for forwards that are grounded.

The host has torch.compile not look at a call's patches, so a graph that was made without grounding would
be taken for a forward with it too, and the other way round. So each structure of the grounding gets a
compilation of its own, in which the gated layers are part of the graph.
"""

import weakref

import torch
from torch import nn

from .parts import Part

_made: "weakref.WeakKeyDictionary[nn.Module, dict]" = weakref.WeakKeyDictionary()


def compilation(compiled: nn.Module, kwargs: dict, parts: list[Part] | None) -> nn.Module:
    """compiled: the host's; kwargs: of torch.compile; parts: what is traced, or None where the grounding
    stays out of the graph. A forward that makes keys runs uncompiled."""
    original = getattr(compiled, "_orig_mod", compiled)
    if parts is not None and not all(part.layers for part in parts):
        return original
    made = _made.setdefault(compiled, {})
    structure = None if parts is None else tuple(map(_structure, parts))
    if structure not in made:
        backend = torch._dynamo.lookup_backend(kwargs["backend"])
        # torch tells compilations apart by their backend, and this one is new.
        own = {**kwargs, "backend": lambda graph, inputs: backend(graph, inputs)}
        made[structure] = torch.compile(original, **own)
    return made[structure]


def _structure(part: Part) -> tuple:
    """All that a graph takes for granted."""
    layers = (
        (type(layer), _kind(next(layer.parameters())), *(k is not None and _kind(k) for k in keys))
        for layer, keys, _ in part.layers.values()
    )
    return part.strength, part.count, tuple(part.rows), tuple(part.layers), tuple(layers)


def _kind(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.dtype, tensor.device
