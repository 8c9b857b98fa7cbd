"""A GLIGEN in the host: weights loaded, moved, cast and accounted for by the host's ModelPatcher."""

import os
import weakref
from collections.abc import Callable, Iterable

import comfy.gligen
import comfy.model_management
import comfy.model_patcher
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...gligen_ops.entities import BoxEntity, Entity
from ...gligen_ops.errors import GligenError
from ...gligen_ops.files.checkpoint import Checkpoint, build_gligen, read_gligen, state_dict_of
from ...gligen_ops.kinds import kinds_of
from ...gligen_ops.layers.gated_self_attention import GatedLayer
from ...gligen_ops.model import Block, Gligen
from ...gligen_ops.places import Box
from ...gligen_ops.tokenizers.box import BoxTokenizer
from .operations import Operations, attention_of

Patch = Callable[[Tensor, dict], Tensor]
"""Visual tokens [B, N, C] and what the host tells a patch → the same tokens, grounded."""
ORDER = "transformer"
"""The kind of a block of which only the order is known."""
SD = {
    **{Block("input", number, 0): 1 for number in (1, 2)},
    **{Block("input", number, 0): 2 for number in (4, 5)},
    **{Block("input", number, 0): 4 for number in (7, 8)},
    Block("middle", 0, 0): 4,
    **{Block("output", number, 0): 4 for number in (3, 4, 5)},
    **{Block("output", number, 0): 2 for number in (6, 7, 8)},
    **{Block("output", number, 0): 1 for number in (9, 10, 11)},
}
"""The transformer blocks of SD 1.x and 2.x in the order in which they run, and how often the width of the
first goes into theirs."""
LOAD_ANOTHER = "Load the GLIGEN file that was trained for this base model."
_loaded: "weakref.WeakValueDictionary[tuple, LoadedGligen]" = weakref.WeakValueDictionary()
"""By file: a file that is loaded twice is one model."""
_adopted: "weakref.WeakKeyDictionary[nn.Module, LoadedGligen]" = weakref.WeakKeyDictionary()
"""By the host's model."""


class LoadedGligen(nn.Module):
    """A GLIGEN with its ModelPatcher. Copies of it are the same object, and pickled it is its file.

    name: of the file, for messages. source: where its weights are from. path: "" where that is unknown.
    """

    def __init__(self, net: Gligen, name: str, source: str, path: str = ""):
        super().__init__()
        self.net = net
        self.name, self.source, self.path = name, source, path
        self.by_order = next(iter(net.widths)).kind == ORDER
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    def __deepcopy__(self, memo) -> "LoadedGligen":
        return self

    def __reduce__(self):
        if not self.path:
            raise GligenError(
                f"A conditioning with {self.name} cannot be saved, as its file is not known. "
                "Load it with the GLIGEN Model Loader."
            )
        return load, (self.path, self.name)

    def set_position(self, latent_shape, params: list[tuple], device: torch.device) -> Patch:
        """The host asks for a patch where boxes of its own node meet a run that no node of this pack is
        part of. They are grounded as the host does: in every step, in each cond that they came to."""
        boxes = [host_box(param, *latent_shape[-2:]) for param in params]
        self.check_count(len(boxes))
        tokens = self.tokens(boxes, device)

        def patch(v, extra):
            layer = self.layer_of(extra, v.shape[-1])
            keys = layer.keys(tokens.to(v.dtype).expand(len(v), -1, -1))
            gates = tuple(gate.to(v.device) for gate in layer.gates())
            grid = tuple(extra["activations_shape"][-2:])
            return layer(v, keys, extra["n_heads"], gates, 1.0, attention_of(extra), grid)

        return patch

    def set_empty(self, latent_shape, device):
        """The host comes here for a form of grounding that it does not know."""
        raise GligenError(
            "conditioning: it carries boxes for each frame, which ComfyUI by itself does not pass on. Put a "
            "GLIGEN β Schedule node between the model and the sampler, or use the GLIGEN KSampler."
        )

    def layer_of(self, extra: dict, width: int) -> GatedLayer:
        """The gated layer for the block of the UNet, of this width, that a patch was called in. Raises
        GligenError where there is none."""
        number = ("transformer", extra["transformer_index"]) if self.by_order else extra["block"]
        block = Block(*number, extra["block_index"])
        if self.net.widths.get(block) != width:
            raise GligenError(
                f"gligen: {self.name} does not fit the model. It has gated layers for "
                f"{outline(self.net.widths)}, and none for the model's block {block} of width {width}. "
                f"{LOAD_ANOTHER}"
            )
        return self.net.layer(block)

    def has_weights_of(self, other: "LoadedGligen") -> bool:
        """Whether both are of one file, by the weights of the tokenizers and by the gates."""

        def weights(net: Gligen) -> list[Tensor]:
            gates = [gate for block in net.widths for gate in net.layer(block).gates()]
            return [*net.position_net.state_dict().values(), *gates]

        pairs = list(zip(weights(self.net), weights(other.net), strict=False))
        alike = len(self.net.widths) == len(other.net.widths) and self.net.fuser == other.net.fuser
        return alike and all(a.shape == b.shape and torch.equal(a.cpu(), b.cpu()) for a, b in pairs)

    def description(self) -> str:
        """What it is, for the node that loaded it."""
        count = len(self.net.widths)
        layers = f"{count} gated layer{'s' if count > 1 else ''}"
        return f"{self.net.kind} ({self.net.fuser}), {layers}"

    def check_count(self, count: int) -> None:
        slots = self.net.position_net.slots
        if count > slots:
            raise GligenError(
                f"gligen: {self.name} ({self.net.kind.name}) grounds at most {slots} entities, and the "
                f"conditioning carries {count}. Remove {count - slots}."
            )

    def tokens(self, entities: list[Entity], device: torch.device) -> torch.Tensor:
        """Grounding tokens [1, G, D] in float32; without entities those of the null grounding."""
        tokenizer = self.net.position_net
        inputs = tokenizer.inputs(entities)
        return tokenizer(*(None if i is None else i.to(device) for i in inputs))


def load(path: str, name: str) -> LoadedGligen:
    """The GLIGEN of a file. Raises GligenError where it is not one of the formats that can be read."""
    try:
        status = os.stat(path)
        key = os.path.realpath(path), status.st_mtime_ns, status.st_size
    except OSError:
        key = path
    found = _loaded.get(key)
    if found is None:
        checkpoint = read_gligen(path)._replace(name=name)
        found = _loaded[key] = from_checkpoint(checkpoint, os.path.abspath(path))
    return found


def from_checkpoint(checkpoint: Checkpoint, path: str = "") -> LoadedGligen:
    """Raises GligenError where a tensor is missing, too much or of the wrong shape."""
    net = build_gligen(checkpoint, Operations)
    dtype = widest(checkpoint.tensors.values())
    if dtype == torch.float32 and comfy.model_management.should_use_fp16():
        dtype = torch.float16
    state = {k: v.to(dtype) for k, v in state_dict_of(net, checkpoint.tensors).items()}
    return _with_weights(net, state, checkpoint.name, checkpoint.source, path)


def widest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The dtype that holds all of them: of several as large, float32."""
    dtypes = {tensor.dtype for tensor in tensors}
    largest = max(dtype.itemsize for dtype in dtypes)
    widest = [dtype for dtype in dtypes if dtype.itemsize == largest]
    return widest[0] if len(widest) == 1 else torch.float32


def _with_weights(net: Gligen, state: dict, name: str, source: str, path: str = "") -> LoadedGligen:
    net.load_state_dict(state, assign=True)
    return LoadedGligen(net.eval().requires_grad_(False), name, source, path)


def need(patcher: ModelPatcher, *tokenizers: type[nn.Module]) -> LoadedGligen:
    """The GLIGEN of a GLIGEN input, where it has one of these tokenizers; else a GligenError that says
    which kind it is."""
    loaded = adopted(patcher)
    if not isinstance(loaded.net.position_net, tokenizers):
        wanted = " or ".join(f"{kind.name} ({kind.official})" for kind in kinds_of(*tokenizers))
        raise GligenError(
            f"gligen: {loaded.name} is a {loaded.net.kind} model, and this node needs another kind: "
            f"{wanted}. Choose such a file in the GLIGEN Model Loader, or this kind in the GLIGEN Demo Model."
        )
    return loaded


def adopted(patcher: ModelPatcher) -> LoadedGligen:
    """The GLIGEN itself where this pack loaded it, or one with the same weights where the host's
    `GLIGENLoader` did."""
    model = getattr(patcher, "model", None)
    if isinstance(model, LoadedGligen):
        return model
    if not isinstance(model, comfy.gligen.Gligen):
        raise GligenError(
            f"gligen: came a {type(model).__name__}, which is not a GLIGEN model this pack knows. "
            "Load the file with the GLIGEN Model Loader."
        )
    if model not in _adopted:
        _adopted[model] = _adopt(model)
    return _adopted[model]


def _adopt(model: "comfy.gligen.Gligen") -> LoadedGligen:
    """The host drops the names of the blocks and keeps their order: one layer for each transformer."""
    tokenizer = model.position_net
    found = [layer.linear.weight.shape[0] for layer in model.module_list]
    known = found == [times * found[0] for times in SD.values()]
    blocks = SD if known else [Block(ORDER, i, 0) for i in range(len(found))]
    widths = dict(zip(blocks, found, strict=True))
    with torch.device("meta"):
        net = Gligen(
            BoxTokenizer(tokenizer.in_dim, tokenizer.out_dim, Operations),
            model.key_dim, widths, Operations, kind=BoxTokenizer.kinds[0],
        )  # fmt: skip
    state = {f"position_net.{k}": v for k, v in tokenizer.state_dict().items()}
    for name, layer in zip(net.fusers, model.module_list, strict=True):
        state |= {f"fusers.{name}.{k}": v for k, v in layer.state_dict().items()}
    name = "the file in the host's GLIGENLoader"
    return _with_weights(net, state, name, name)


def host_box(param: tuple, height: float, width: float) -> BoxEntity:
    """One of the host's params, on a latent of height × width."""
    feature, h, w, y, x = param
    box = Box(x / width, y / height, (x + w) / width, (y + h) / height)
    return BoxEntity(box, text=feature.reshape(-1).float())


def outline(widths: dict[Block, int]) -> str:
    values = list(widths.values())
    counts = {w: values.count(w) for w in dict.fromkeys(values)}
    return (
        f"{len(values)} blocks (" + ", ".join(f"{n} of width {w}" for w, n in counts.items()) + ")"
    )
