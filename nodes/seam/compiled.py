"""Compilations of a UNet that the host compiles, for forwards that are grounded.

The host has torch.compile not look at a call's patches, so a graph that was made without grounding would
be taken for a forward with it too, and the other way round. So each structure of the grounding gets a
compilation of its own, in which the gated layers are part of the graph.
"""

import weakref

import torch
from torch import nn

from .grounders import Grounder

_made: "weakref.WeakKeyDictionary[nn.Module, dict]" = weakref.WeakKeyDictionary()


def compilation(compiled: nn.Module, kwargs: dict, grounders: list[Grounder] | None) -> nn.Module:
    """compiled: the host's; kwargs: of torch.compile; grounders: what is traced, or None where the grounding
    stays out of the graph. A forward that makes keys runs uncompiled."""
    original = getattr(compiled, "_orig_mod", compiled)
    if grounders is not None and not all(grounder.layers for grounder in grounders):
        return original
    made = _made.setdefault(compiled, {})
    structure = None if grounders is None else tuple(map(_structure, grounders))
    if structure not in made:
        backend = torch._dynamo.lookup_backend(kwargs["backend"])
        # torch tells compilations apart by their backend, and this one is new.
        renewed = {**kwargs, "backend": lambda graph, inputs: backend(graph, inputs)}
        made[structure] = torch.compile(original, **renewed)
    return made[structure]


def _structure(grounder: Grounder) -> tuple:
    """All that a graph takes for granted."""
    layers = (
        (type(layer), _kind(next(layer.parameters())), *(k is not None and _kind(k) for k in keys))
        for layer, keys, _ in grounder.layers.values()
    )
    rows = grounder.count, tuple(grounder.rows)
    return grounder.strength, rows, tuple(grounder.layers), tuple(layers)


def _kind(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.dtype, tensor.device
