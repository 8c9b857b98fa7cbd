"""A GLIGEN model in the seat that the host has for one: a GLIGEN is a ModelPatcher whose model makes
a `middle_patch` in `set_position`, which the host calls for each conditioning at each model call."""

import weakref

import comfy.gligen
import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

from ..gligen_ops.box_tokens import BoxTokenizer
from ..gligen_ops.checkpoint import Checkpoint, build_gligen, read_gligen, state_dict_of
from ..gligen_ops.errors import GligenError
from ..gligen_ops.kinds import KINDS
from ..gligen_ops.model import Block, Gligen
from .operations import Operations
from .patch import Unscheduled

TEXT_BOX = KINDS[0]


class Seat(nn.Module):
    """name: the file, for messages. source: where its weights are from."""

    def __init__(self, gligen: Gligen, name: str, source: str):
        super().__init__()
        self.gligen = gligen
        self.name = name
        self.source = source
        self.by_order = next(iter(gligen.widths)).kind == "transformer"
        self.run = Unscheduled(seat_of)

    def set_position(self, latent_shape, entries: list[tuple], device):
        return self.run.middle_patch(self, entries)

    def set_empty(self, latent_shape, device):
        """The host comes here for a conditioning whose kind of grounding it does not know."""
        raise GligenError(
            "conditioning: it carries boxes for each frame, which ComfyUI passes on only to a schedule. "
            "Put a GLIGEN β Schedule node between the model and the sampler, or use the GLIGEN KSampler."
        )


def seated(gligen: Gligen, state: dict, name: str, source: str):
    """A GLIGEN of the host: weights loaded, moved, cast and accounted for by the host."""
    gligen.load_state_dict(state, assign=True)
    seat = Seat(gligen.eval().requires_grad_(False), name, source)
    patcher = comfy.model_patcher.CoreModelPatcher(
        seat,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_callback(CallbacksMP.ON_CLEANUP, lambda _: seat.run.forget())
    return patcher


def load(path: str, name: str):
    """The GLIGEN of a file. Raises GligenError where it is not one of the formats that can be read."""
    return from_checkpoint(read_gligen(path)._replace(name=name))


def from_checkpoint(checkpoint: Checkpoint):
    """Raises GligenError where a tensor is missing, too much or of the wrong shape."""
    gligen = build_gligen(checkpoint, Operations)
    dtype = next(iter(checkpoint.tensors.values())).dtype
    if dtype == torch.float32 and comfy.model_management.should_use_fp16():
        dtype = torch.float16
    state = state_dict_of(gligen, checkpoint.tensors)
    state = {k: v.to(dtype) for k, v in state.items()}
    return seated(gligen, state, checkpoint.name, checkpoint.source)


def description(gligen) -> str:
    """What a GLIGEN is, for the node that loaded it."""
    model = gligen.model.gligen
    count = len(model.widths)
    layers = f"{count} gated layer{'s' if count > 1 else ''}"
    return f"{model.kind} ({model.fuser}), {layers}"


_adopted: "weakref.WeakKeyDictionary[nn.Module, object]" = weakref.WeakKeyDictionary()


def own(patcher):
    """The GLIGEN itself where this pack loaded it, or one with the same weights where the host's
    `GLIGENLoader` did."""
    model = patcher.model
    if isinstance(model, Seat):
        return patcher
    if not isinstance(model, comfy.gligen.Gligen):
        raise GligenError(
            f"gligen: came a {type(model).__name__}, which is not a GLIGEN model this pack knows. "
            "Load the file with the GLIGEN Model Loader."
        )
    if model not in _adopted:
        _adopted[model] = adopt(model)
    return _adopted[model]


def seat_of(gligen) -> Seat:
    """Of an entry's GLIGEN: a patcher, or the seat itself, which the host has at hand."""
    return gligen if isinstance(gligen, Seat) else own(gligen).model


def adopt(model: "comfy.gligen.Gligen"):
    """The host drops the names of the blocks and keeps their order: one layer for each transformer."""
    tokenizer = model.position_net
    widths = {
        Block("transformer", i, 0): layer.linear.weight.shape[0]
        for i, layer in enumerate(model.module_list)
    }
    with torch.device("meta"):
        gligen = Gligen(
            BoxTokenizer(tokenizer.in_dim, tokenizer.out_dim, Operations),
            model.key_dim, widths, Operations, kind=TEXT_BOX,
        )  # fmt: skip
    state = {f"position_net.{k}": v for k, v in tokenizer.state_dict().items()}
    for name, layer in zip(gligen.fusers, model.module_list, strict=True):
        state |= {f"fusers.{name}.{k}": v for k, v in layer.state_dict().items()}
    name = "the file in the host's GLIGENLoader"
    return seated(gligen, state, name, name)
