"""The names of the blocks of a GLIGEN that came from the host's GLIGENLoader, which drops them."""

from torch import Tensor

from ..gligen_ops.errors import GligenError
from ..gligen_ops.model import Block, Gligen

SD = {
    **{Block("input", number, 0): 1 for number in (1, 2)},
    **{Block("input", number, 0): 2 for number in (4, 5)},
    **{Block("input", number, 0): 4 for number in (7, 8)},
    Block("middle", 0, 0): 4,
    **{Block("output", number, 0): 4 for number in (3, 4, 5)},
    **{Block("output", number, 0): 2 for number in (6, 7, 8)},
    **{Block("output", number, 0): 1 for number in (9, 10, 11)},
}
"""The transformer blocks of Stable Diffusion 1.x and 2.x in the order in which they run, and how often the
width of the first goes into theirs."""


def named(gligen: Gligen, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a GLIGEN by the authors' names. Raises GligenError where the names of its blocks
    were dropped and its widths do not tell them."""
    if next(iter(gligen.widths)).kind != "transformer":
        return tensors
    first, *_ = widths = list(gligen.widths.values())
    if widths != [scale * first for scale in SD.values()]:
        raise GligenError(
            "gligen: ComfyUI's own GLIGENLoader drops the names of the blocks, and from the "
            f"{len(widths)} layers of this model they cannot be told, as from those of SD 1.x and 2.x. "
            "Load the file with the GLIGEN Model Loader in its place, and save it again."
        )
    names = {old.key: new.key for old, new in zip(gligen.widths, SD, strict=True)}
    return {_renamed(name, names): tensor for name, tensor in tensors.items()}


def _renamed(name: str, names: dict[str, str]) -> str:
    place, fuser, rest = name.partition(".fuser")
    return names[place + fuser] + rest if fuser else name
