"""GLIGEN checkpoints, of every layout they come in, under the names of the authors' code.

Originals: `load_ckpt` in gligen_inference.py and `UNetModel` in ldm/modules/diffusionmodules/
openaimodel.py of gligen/GLIGEN. Other layouts: `load_gligen` in comfy/gligen.py of ComfyUI, whose
files hold GLIGEN's tensors alone; `UNet2DConditionModel` of diffusers, which counts blocks
otherwise.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from .box_tokens import BoxTokenizer
from .errors import GligenError
from .fourier import fourier_width
from .model import Block, Gligen
from .tensor_files import read_tensors, tensors_in

KINDS = ("input", "middle", "output")  # in the order in which the UNet runs them
FIRST_CONV = "input_blocks.0.0."
WRAPPERS = re.compile(r"((state_dict|model|diffusion_model|unet|module)\.)*")
DIFFUSERS_BLOCK = re.compile(r"(down|mid|up)_block(?:s\.(\d+))?\.attentions\.(\d+)\.")
FUSER = re.compile(r"(?:(input|output)_blocks\.(\d+)|middle_block)\.1\.transformer_blocks\.(\d+)")
WIDE_AS_BLOCK = ("linear.", "attn.", "ff.net.2.", "norm")
SHARD = re.compile(r"(.+-)\d{5}(-of-(\d{5})\.\w+)")
LISTED = 8


def read_gligen(path: str | PathLike) -> dict[str, Tensor]:
    """GLIGEN's tensors of a file (of all its parts where it is `…-00001-of-00003…`) in their own
    dtypes, by the authors' names: `….fuser.*`, `position_net.*`, `downsample_net.*`, and the
    `input_blocks.0.0.*` that takes other than the 4 channels of Stable Diffusion.

    Raises GligenError where the file cannot be read or holds no gated layers.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    for part in _parts(path):
        wanted = {}
        for name, stored in tensors_in(part).items():
            own = _authors_name(name)
            if own is None:
                continue
            if own in wanted or own in tensors:
                raise GligenError(f"{part.name} holds {own} twice: choose a file of one model.")
            if stored.dtype is None or not stored.dtype.is_floating_point:
                raise GligenError(
                    f"{part.name} holds {name} quantized to integers: choose the model in float16, "
                    "bfloat16 or float32."
                )
            wanted[own] = stored
        tensors |= read_tensors(part, wanted)
    if not any(".fuser." in name for name in tensors):
        raise GligenError(
            f"{path.name} contains no gated layers (fuser), so it is not a GLIGEN model: choose "
            "one, such as gligen_sd14_textbox_pruned.safetensors."
        )
    conv = tensors.get(f"{FIRST_CONV}weight")
    if conv is None or conv.ndim != 4 or conv.shape[1] == 4:
        tensors = {name: t for name, t in tensors.items() if not name.startswith(FIRST_CONV)}
    return tensors


def kind_of(shapes: Mapping[str, Collection[int]]) -> str:
    """What a GLIGEN is grounded by, from the names and shapes of its tensors: "text-box" where
    nothing tells of another kind. `gatedSA2` has the tensors of `gatedSA`."""
    parts = {name.split(".")[1] for name in shapes if name.startswith("position_net.")}
    if parts & {"person_embeddings", "keypoint_embeddings", "null_person_feature"}:
        return "keypoint"
    if parts & {"linears_text", "linears_image", "null_image_feature"}:
        return "text-and-image-box"
    spatial = parts & {"convnext_tiny_backbone", "pos_embedding", "in_conv"}
    if spatial or any(name.startswith("downsample_net.") for name in shapes):
        return "spatial-map"
    if tuple(shapes.get(f"{FIRST_CONV}weight", ()))[1:2] == (9,):
        return "inpainting"
    if not any(name.endswith(".fuser.linear.weight") for name in shapes):
        return "cross-attention (gatedCA)"
    return "text-box"


def build_gligen(tensors: Mapping[str, Tensor], operations=nn, name: str = "the file") -> Gligen:
    """The model that `read_gligen`'s tensors belong to, its weights not loaded.

    Raises one GligenError of all that is missing, unexpected or of the wrong shape.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    kind = kind_of(shapes)
    if kind != "text-box":
        article = "an" if kind.startswith("i") else "a"
        raise GligenError(
            f"{name} holds {article} {kind} GLIGEN; this loader reads text-box models: choose one, "
            "such as gligen_sd14_textbox_pruned.safetensors."
        )
    widths, token_width, text_width = _widths(shapes, name)

    def model(operations) -> Gligen:
        tokenizer = BoxTokenizer(text_width, token_width, operations)
        return Gligen(tokenizer, token_width, widths, operations)

    with torch.device("meta"):
        expected = _shapes(model(nn))
    _check(shapes, expected, name)
    return model(operations)


def state_dict_of(gligen: Gligen, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`read_gligen`'s tensors by the names that `gligen.load_state_dict` wants."""
    layers = {block.key: layer for block, layer in zip(gligen.widths, gligen.fusers, strict=True)}
    state = {}
    for name, tensor in tensors.items():
        place, fuser, rest = name.partition(".fuser.")
        state[f"fusers.{layers[f'{place}.fuser']}.{rest}" if fuser else name] = tensor
    return state


def load_gligen(path: str | PathLike, operations=nn) -> Gligen:
    """The GLIGEN of a file, its weights those of the file, in their dtypes."""
    tensors = read_gligen(path)
    with torch.device("meta"):
        gligen = build_gligen(tensors, operations, Path(path).name)
    gligen.load_state_dict(state_dict_of(gligen, tensors), assign=True)
    return gligen


def _parts(path: Path) -> list[Path]:
    shard = SHARD.fullmatch(path.name)
    if not shard:
        return [path]
    return [path.with_name(f"{shard[1]}{i:05}{shard[2]}") for i in range(1, int(shard[3]) + 1)]


def _authors_name(name: str) -> str | None:
    """The authors' name of one of GLIGEN's tensors, or of the first convolution's; else None."""
    name = name[WRAPPERS.match(name).end() :]
    name = DIFFUSERS_BLOCK.sub(_authors_block, name, count=1)
    name = re.sub(r"^conv_in\.", FIRST_CONV, name)
    if name.startswith(("position_net.", "downsample_net.", FIRST_CONV)):
        return name
    in_unet = name.startswith(("input_blocks.", "middle_block.", "output_blocks."))
    return name if in_unet and ".fuser." in name else None


def _authors_block(place: re.Match) -> str:
    """diffusers counts resolutions, and transformers in each. The authors count blocks: on the way
    down 2 with a transformer and a downsampling for each resolution, on the way up 3."""
    side, level, attention = place.groups(default="0")
    if side == "down":
        return f"input_blocks.{1 + 3 * int(level) + int(attention)}.1."
    if side == "up":
        return f"output_blocks.{3 * int(level) + int(attention)}.1."
    return "middle_block.1."


def _widths(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[dict[Block, int], int, int]:
    """Widths of the blocks as the UNet runs them, of the tokens and of the text feature, each the
    one that most of the tensors agree on."""
    outputs: dict[Block, list[int]] = {}
    tokens = [shape[0] for shape in (shapes.get("position_net.linears.4.weight"),) if shape]
    for key, shape in shapes.items():
        place, _, rest = key.partition(".fuser.")
        match = FUSER.fullmatch(place)
        if match and shape and rest.startswith(WIDE_AS_BLOCK):
            kind, number, index = match.groups(default="0")
            block = Block("middle" if kind == "0" else kind, int(number), int(index))
            outputs.setdefault(block, []).append(shape[0])
            if rest == "linear.weight":
                tokens.append(shape[-1])
    text = [*shapes.get("position_net.null_positive_feature", ())]
    position = fourier_width(4)
    inputs = shapes.get("position_net.linears.0.weight", ())[1:]
    text += [n - position for n in inputs if n > position]
    if not text or not tokens:
        raise GligenError(
            f"{name} holds gated layers but not the tokenizer of text boxes (position_net) that "
            "they need: choose a file of the whole model."
        )
    order = sorted(outputs, key=lambda block: (KINDS.index(block.kind), *block[1:]))
    widths = {block: _most(outputs[block]) for block in order}
    return widths, _most(tokens), _most(text)


def _most(votes: Iterable[int]) -> int:
    return Counter(votes).most_common(1)[0][0]


def _shapes(gligen: Gligen) -> dict[str, tuple[int, ...]]:
    """Shapes of its weights by the authors' names."""
    modules = {"position_net": gligen.position_net}
    modules |= {block.key: gligen.layer(block) for block in gligen.widths}
    return {
        f"{prefix}.{name}": tuple(weight.shape)
        for prefix, module in modules.items()
        for name, weight in module.state_dict().items()
    }


def _check(shapes: Mapping, expected: Mapping, name: str) -> None:
    wrong = [
        f"{key} is {list(shape)} and not {list(expected[key])}"
        for key, shape in shapes.items()
        if key in expected and shape != expected[key]
    ]
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected],
        "of the wrong shape": wrong,
    }
    told = [
        f"{len(keys)} {problem} ({', '.join(keys[:LISTED])}{', …' if len(keys) > LISTED else ''})"
        for problem, keys in problems.items()
        if keys
    ]
    if told:
        raise GligenError(
            f"{name} does not hold a complete text-box GLIGEN. Its tensors: {'; '.join(told)}. "
            "Download it again, or choose another file."
        )
