"""GLIGEN checkpoints of every kind and layout: read, built into a model, and saved.

Originals: `load_ckpt` in gligen_inference.py and `save_ckpt_and_result` in trainer.py of gligen/GLIGEN.
Layouts and names: names.py.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import GligenError
from ..kinds import FIRST_CONV, TOKENIZER, Kind, kind_of
from ..layers.first_conv import LATENT
from ..model import FUSERS, Block, Gligen
from ..shapes import Shapes, Sizes, fits
from .names import authors_name_in_file, authors_names, gligen_names
from .tensor_files import Contents, Stored, contents_of, read_tensors

FUSER = re.compile(
    r"(?:(input|output)_blocks\.(\d{1,4})|middle_block)\.1\.transformer_blocks\.(\d{1,4})\.fuser\."
)
SHARD = re.compile(r"(.+-)\d{5}(-of-(\d{5})\.\w+)")
LISTED = 8
LONGEST = 120  # characters of a name in a message


class Checkpoint(NamedTuple):
    """The tensors of a GLIGEN, and what they are.

    tensors: by the authors' names (`….fuser.*`, `position_net.*`, `downsample_net.*`, and the
    `input_blocks.0.0.*` that takes other than the 4 channels of Stable Diffusion), in their own dtypes.
    fuser: of `FUSERS`. name: what messages call it. source: where the weights are from.
    """

    tensors: dict[str, Tensor]
    kind: Kind
    fuser: str = "gatedSA"
    name: str = "the file"
    source: str = ""


def checkpoint_of(
    tensors: Mapping[str, Tensor],
    name: str = "the file",
    hints: Sequence[str] = (),
    source: str = "",
) -> Checkpoint:
    """Tensors by the authors' names, and what they are. hints: what else is known of kind and fuser,
    the surest first (see `kind_of`): the tensors alone do not tell canny from depth, nor gatedSA2 from
    gatedSA."""
    if not any(key.startswith(TOKENIZER) for key in tensors):
        raise GligenError(
            f"{name} holds gated layers but not the tokenizer of the grounding (position_net) that "
            "they need: choose a file of the whole model."
        )
    fuser = "gatedCA"
    if any(".fuser.linear." in key for key in tensors):
        fuser = next((text for text in hints if text in ("gatedSA", "gatedSA2")), "gatedSA")
    return Checkpoint(dict(tensors), kind_of(_shapes_of(tensors), hints, name), fuser, name, source)


def read_gligen(path: str | PathLike) -> Checkpoint:
    """GLIGEN's tensors of a file, of all its parts where it is `…-00001-of-00003…`.

    Raises GligenError where the file cannot be read or holds no gated layers.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    said: list[Contents] = []
    for part in _parts(path):
        said.append(contents_of(part))
        tensors |= read_tensors(part, _wanted(part, said[-1].tensors, tensors))
    if not any(".fuser." in name for name in tensors):
        raise GligenError(
            f"{path.name} contains no gated layers (fuser), so it is not a GLIGEN model: choose "
            "one, such as gligen_sd14_textbox_pruned.safetensors."
        )
    _check_numbers(tensors, path.name)
    first_conv = _shapes_of(tensors).get(f"{FIRST_CONV}weight", ())
    if fits(first_conv, ("width", LATENT, 3, 3)):
        tensors = {name: t for name, t in tensors.items() if not name.startswith(FIRST_CONV)}
    metadata = said[0].metadata
    hints = [metadata.get(f"gligen_{what}", "") for what in ("kind", "fuser")]
    hints += [text for text in said[0].strings if "_grounding_net" in text or text in FUSERS]
    hints += [path.name, path.parent.name]
    return checkpoint_of(tensors, path.name, hints, metadata.get("gligen_source", path.name))


def build_gligen(checkpoint: Checkpoint, operations=nn) -> Gligen:
    """The model that the tensors belong to, in the dtype of the first of them. Its weights are not
    loaded: their memory is untouched, and costs nothing where `load_state_dict` assigns.

    Raises one GligenError of all that is missing, unexpected or of the wrong shape.
    """
    tensors, kind, fuser, name, _ = checkpoint
    sizes = Sizes(_shapes_of(tensors))
    widths = {
        block: sizes.read(f"{block.key}.norm2.weight", ("width",))["width"]
        for block in _blocks(tensors)
    }
    of_tokenizer: dict[str, int] = {}
    for tensor, axes in kind.tokenizer.sizes.items():
        of_tokenizer |= sizes.read(f"{TOKENIZER}{tensor}", axes)
    features = 0 if kind.extra is None else sizes.read(f"{FIRST_CONV}bias", ("width",))["width"]

    def model(operations) -> Gligen:
        tokenizer = kind.tokenizer(**of_tokenizer, operations=operations)
        first_conv = kind.build_first_conv(features, operations)
        return Gligen(
            tokenizer, of_tokenizer["token_width"], widths, operations, fuser, first_conv, kind
        )

    with torch.device("meta"):
        plain = model(nn)
        gligen = model(operations).to(next(iter(tensors.values())).dtype)
    _check(sizes, _shapes_of(tensors_of(plain)), name, kind)
    grounding_tokens = len(gligen.position_net.slot_of_token)
    if fuser == "gatedSA2" and math.isqrt(grounding_tokens) ** 2 != grounding_tokens:
        raise GligenError(
            f"{name} has gated layers (gatedSA2) for grounding tokens on a square grid, and its {kind} "
            f"tokenizer makes {grounding_tokens}: choose another file."
        )
    return gligen.to_empty(device="cpu")


def state_dict_of(gligen: Gligen, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the authors' names by the names that `gligen.load_state_dict` wants."""
    return dict(zip(gligen_names(gligen, tensors), tensors.values(), strict=True))


def tensors_of(gligen: Gligen) -> dict[str, Tensor]:
    """The weights of a model by the authors' names."""
    state = gligen.state_dict()
    return dict(zip(authors_names(gligen, state), state.values(), strict=True))


def save_gligen(checkpoint: Checkpoint, file: str | PathLike) -> None:
    """Write a safetensors file of GLIGEN's tensors, by the authors' names, which `read_gligen` reads
    back as they are, with what else the checkpoint knows. The file is whole at any moment, the old one or the
    new one."""
    content = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    metadata = {
        "gligen_kind": checkpoint.kind.name,
        "gligen_fuser": checkpoint.fuser,
        "gligen_source": checkpoint.source,
    }
    file = Path(file)
    unfinished = file.with_name(f"{file.name}.part")
    try:
        save_file(content, unfinished, metadata)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _parts(path: Path) -> list[Path]:
    shard = SHARD.fullmatch(path.name)
    if not shard:
        return [path]
    count = int(shard[3])
    parts = [path.with_name(f"{shard[1]}{i:05}{shard[2]}") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise GligenError(
            f"{path.name} is one of {count} parts, and beside it {listed(missing)} is missing: put all parts "
            "into the same folder."
        )
    return parts


def _check_numbers(tensors: Mapping[str, Tensor], name: str) -> None:
    bad = [key for key, tensor in tensors.items() if not tensor.float().isfinite().all()]
    if bad:
        raise GligenError(
            f"{name} holds values that are no numbers (NaN or infinite) in {listed(bad)}: download it again, "
            "or choose another file."
        )


def listed(names: Sequence[str]) -> str:
    """The first names, each cut where it is too long to be read."""
    shown = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names[:LISTED]]
    return ", ".join(shown + ["…"] * (len(names) > LISTED))


def _wanted(
    part: Path, tensors: Mapping[str, Stored], others: Mapping[str, Tensor]
) -> dict[str, Stored]:
    """Those of a file's tensors that are GLIGEN's. others: what parts before it had."""
    wanted = {}
    for name, stored in tensors.items():
        own = authors_name_in_file(name)
        if own is None:
            continue
        if own in wanted or own in others:
            raise GligenError(
                f"{part.name} holds {listed([own])} twice: choose a file of one model."
            )
        if stored.dtype is None or not stored.dtype.is_floating_point:
            raise GligenError(
                f"{part.name} holds {listed([name])} quantized to integers: choose the model in float16, "
                "bfloat16 or float32."
            )
        wanted[own] = stored
    return wanted


def _shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _blocks(names: Iterable[str]) -> list[Block]:
    """The blocks that have gated layers, in the order in which the UNet runs them."""
    places = {match.groups() for match in map(FUSER.match, names) if match}
    return sorted(Block(side or "middle", int(n or 0), int(index)) for side, n, index in places)


def _check(sizes: Sizes, expected: Shapes, name: str, kind: Kind) -> None:
    """Raises GligenError where the tensors are not those expected. Where one is unread that decides a size,
    of the shapes only its own can be told."""
    shapes = sizes.shapes
    wanted = sizes.unread or expected
    wrong = [
        f"{key} is {list(shape)} and not [{', '.join(map(str, wanted[key]))}]"
        for key, shape in shapes.items()
        if key in wanted and shape != wanted[key]
    ]
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected],
        "of the wrong shape": wrong,
    }
    told = [f"{len(keys)} {problem} ({listed(keys)})" for problem, keys in problems.items() if keys]
    if told:
        raise GligenError(
            f"{name} does not hold a complete {kind} GLIGEN. Its tensors: {'; '.join(told)}. "
            "Download it again, or choose another file."
        )
