"""GLIGEN files of every layout, with random weights: `from files import ...` in any test."""

import sys
from collections import OrderedDict, defaultdict
from contextlib import contextmanager
from itertools import accumulate
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from gligen_pack.gligen_ops.files.checkpoint import build_gligen, read_gligen, state_dict_of
from gligen_pack.gligen_ops.model import Block
from safetensors.torch import save_file
from tensors import Tensors


def _blocks(*parts):
    """parts: kind, numbers, width, depth."""
    return {
        Block(kind, number, index): width
        for kind, numbers, width, depth in parts
        for number in numbers
        for index in range(depth)
    }


SD15_WIDTHS = _blocks(
    ("input", (1, 2), 320, 1),
    ("input", (4, 5), 640, 1),
    ("input", (7, 8), 1280, 1),
    ("middle", (0,), 1280, 1),
    ("output", (3, 4, 5), 1280, 1),
    ("output", (6, 7, 8), 640, 1),
    ("output", (9, 10, 11), 320, 1),
)
SD21_WIDTHS = SD15_WIDTHS
SDXL_WIDTHS = _blocks(
    ("input", (4, 5), 640, 2),
    ("input", (7, 8), 1280, 10),
    ("middle", (0,), 1280, 10),
    ("output", (0, 1, 2), 1280, 10),
    ("output", (3, 4, 5), 640, 2),
)


def load_gligen(path, operations=torch.nn):
    """The GLIGEN of a file, its weights those of the file, in their dtypes."""
    checkpoint = read_gligen(path)
    gligen = build_gligen(checkpoint, operations)
    gligen.load_state_dict(state_dict_of(gligen, checkpoint.tensors), assign=True)
    return gligen


def scaled(widths, divisor):
    return {block: width // divisor for block, width in widths.items()}


PARTS = {
    "text box": ("box",),
    "text and image box": ("text image",),
    "keypoints": ("keypoint",),
    "hed map": ("map", "hed"),
    "canny map": ("map", 1, 4),
    "depth map": ("map", 1, 4),
    "normal map": ("map", 3, 4),
    "semantic map": ("map", 152, 16),
    "text box inpainting": ("box", "inpainting"),
    "text and image box inpainting": ("text image", "inpainting"),
}
"""By kind: the tokenizer, and what the first convolution takes: nothing, a name, or the channels of
the map and of the layer after it."""


def random_text_box_tensors(
    widths, token_width=768, text_width=768, seed=0, gate=0.5, dtype=torch.float32
):
    """Tensors of a text-box GLIGEN by the authors' names. gate: γ of both gates, before tanh."""
    return random_tensors("text box", widths, token_width, text_width, seed, gate, dtype)


def random_tensors(
    kind, widths, token_width=768, feature_width=768, seed=0, gate=0.5, dtype=torch.float32,
    fuser="gatedSA",
):  # fmt: skip
    """Tensors of a GLIGEN of any kind by the authors' names. feature_width: of what the tokenizer is
    given, or of ConvNeXt's last stage."""
    make = Tensors(seed)
    for block, width in widths.items():
        make.gated_layer(_authors_prefix(block), width, token_width, gate, fuser)
    tokenizer, *extra = PARTS[kind]
    getattr(make, tokenizer.replace(" ", "_"))(token_width, feature_width)
    if kind == "semantic map":
        make.weights("position_net.in_conv", 3, 152, 3, 3)
    channels = {(): 4, ("hed",): 5, ("inpainting",): 9}.get((*extra,), 12)
    if channels == 12:
        inputs, hidden = extra
        make.weights("downsample_net.layers.0", hidden, inputs, 4, 4)
        make.weights("downsample_net.layers.2", 8, hidden, 4, 4)
    if channels > 4:
        make.weights("input_blocks.0.0", next(iter(widths.values())), channels, 3, 3)
    return {name: tensor.to(dtype) for name, tensor in make.tensors.items()}


def _authors_prefix(block):
    place = "middle_block" if block.kind == "middle" else f"{block.kind}_blocks.{block.number}"
    return f"{place}.1.transformer_blocks.{block.index}.fuser"


def diffusers_names(tensors):
    """The same tensors as diffusers names them."""
    return {_diffusers_name(name): tensor for name, tensor in tensors.items()}


def _diffusers_name(name):
    head, _, rest = name.partition(".1.transformer_blocks.")
    if not rest:
        return name.replace("input_blocks.0.0.", "conv_in.")
    side, _, number = head.partition(".")
    if side == "input_blocks":
        level, attention = divmod(int(number) - 1, 3)
        place = f"down_blocks.{level}.attentions.{attention}"
    elif side == "output_blocks":
        level, attention = divmod(int(number), 3)
        place = f"up_blocks.{level}.attentions.{attention}"
    else:
        place = "mid_block.attentions.0"
    return f"{place}.transformer_blocks.{rest}"


def rest_of_unet():
    """A few of the tensors that a whole UNet has beside GLIGEN's."""
    return {
        "input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
        "input_blocks.0.0.bias": torch.zeros(8),
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": torch.zeros(8, 8),
        "middle_block.1.transformer_blocks.0.norm1.weight": torch.zeros(8),
        "time_embed.0.weight": torch.zeros(8, 8),
    }


def save_pruned(path, tensors):
    """As the host's files are: GLIGEN's tensors alone."""
    save_file(tensors, path)


def save_full(path, tensors, prefix="model.diffusion_model."):
    """As Stable Diffusion's own checkpoints are."""
    tensors = rest_of_unet() | tensors
    vae = {"first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}
    save_file({f"{prefix}{name}": t for name, t in tensors.items()} | vae, path)


def save_authors(path, tensors, config=True, net="text", fuser="gatedSA", **kwargs):
    """As the authors' training leaves them. net: of which the configuration speaks, as in
    `text_grounding_net`. kwargs: of torch.save."""
    whole = {
        "model": OrderedDict(rest_of_unet() | tensors),
        "autoencoder": {"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)},
        "text_encoder": {"transformer.position_ids": torch.arange(77)},
        "diffusion": {"betas": torch.zeros(1000, dtype=torch.float64)},
        "opt": {"state": {0: {"exp_avg": torch.zeros(8)}}, "param_groups": [{"lr": 5e-5}]},
        "iters": 3,
    }
    with fake_omegaconf() as omegaconf:
        if config:
            whole["config_dict"] = omegaconf(model=_model(net, fuser), seed=3).__dict__
        torch.save(whole, path, **kwargs)


def _model(net, fuser):
    """The authors' configuration of a model, shortened."""
    package = "ldm.modules.diffusionmodules"
    return {
        "target": f"{package}.openaimodel.UNetModel",
        "params": {
            "transformer_depth": 1,
            "fuser_type": fuser,
            "grounding_tokenizer": {"target": f"{package}.{net}_grounding_net.PositionNet"},
        },
    }


def save_diffusers(path, tensors):
    """As `unet/diffusion_pytorch_model` is, safetensors or not by the path's suffix."""
    tensors = diffusers_names(rest_of_unet() | tensors)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(OrderedDict(tensors), path)


def save_shards(path, tensors, count=3):
    """As diffusers does beyond 10 GB. Returns the first part's path."""
    items = list(diffusers_names(rest_of_unet() | tensors).items())
    ends = list(accumulate(len(items) // count for _ in range(count - 1)))
    parts = []
    for start, end in zip([0, *ends], [*ends, len(items)], strict=True):
        number = f"-{len(parts) + 1:05}-of-{count:05}"
        parts.append(path.with_name(f"{path.stem}{number}.safetensors"))
        save_file(dict(items[start:end]), parts[-1])
    return parts[0]


@contextmanager
def fake_omegaconf():
    """Gives a function that makes a configuration which pickles as one of omegaconf 2.1 does."""
    modules = {"omegaconf": ModuleType("omegaconf")}

    def fake(module, name, **body):
        made = type(name, (), {"__module__": module, "__qualname__": name, **body})
        setattr(modules.setdefault(module, ModuleType(module)), name, made)
        return made

    state = {
        "__getstate__": lambda self: dict(self.__dict__),
        "__setstate__": lambda self, state: self.__dict__.update(state),
    }
    dict_config = fake("omegaconf.dictconfig", "DictConfig", **state)
    list_config = fake("omegaconf.listconfig", "ListConfig", **state)
    node = fake("omegaconf.nodes", "AnyNode")
    metadata = fake("omegaconf.base", "ContainerMetadata")

    def with_values(cls, **values):
        made = cls()
        made.__dict__.update(values)
        return made

    def config(parent=None, **content):
        cache = defaultdict(dict)
        cache["env"]["HOME"] = "/root"
        types = {"ref_type": Any, "object_type": dict, "key_type": int, "element_type": str}
        about = with_values(metadata, **types, flags={"a", "b"}, resolver_cache=cache)
        made = with_values(dict_config, _metadata=about, _parent=parent)
        made._content = {
            key: config(made, **value) if isinstance(value, dict) else with_values(node, _val=value)
            for key, value in content.items()
        }
        made._content["list"] = with_values(list_config, _parent=made, _content=[1, None, "a"])
        return made

    with mock.patch.dict(sys.modules, modules):
        yield config
