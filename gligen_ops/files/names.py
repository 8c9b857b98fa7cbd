"""Names of a GLIGEN's tensors: what files of other layouts call them, as the authors' code calls them,
and as `Gligen` does.

Other layouts: `load_gligen` in comfy/gligen.py of ComfyUI, whose files hold GLIGEN's tensors alone;
`UNet2DConditionModel` of diffusers, which counts blocks otherwise.
"""

import re
from collections.abc import Iterable

from ..kinds import DOWNSAMPLER, FIRST_CONV, TOKENIZER
from ..model import Gligen
from ..tokenizers import convnext

WRAPPERS = re.compile(r"((state_dict|model|diffusion_model|unet|module)\.)*")
DIFFUSERS_BLOCK = re.compile(r"(down|mid|up)_block(?:s\.(\d+))?\.attentions\.(\d+)\.")


def authors_name_in_file(name: str) -> str | None:
    """The authors' name of one of GLIGEN's tensors, or of the first convolution's; else None."""
    name = name[WRAPPERS.match(name).end() :]
    name = DIFFUSERS_BLOCK.sub(_authors_block, name)
    name = re.sub(r"^conv_in\.", FIRST_CONV, name)
    if name.startswith((TOKENIZER, DOWNSAMPLER, FIRST_CONV)):
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


def gligen_names(gligen: Gligen, names: Iterable[str]) -> list[str]:
    """What `gligen.state_dict()` calls the tensors of these authors' names."""
    prefixes = _prefixes(gligen)
    return [convnext.host_name(_moved(name, prefixes)) for name in names]


def authors_names(gligen: Gligen, names: Iterable[str]) -> list[str]:
    """What the authors call the tensors of these names in `gligen.state_dict()`."""
    prefixes = {gligens: authors for authors, gligens in _prefixes(gligen).items()}
    return [convnext.authors_name(_moved(name, prefixes)) for name in names]


def _prefixes(gligen: Gligen) -> dict[str, str]:
    """The authors' prefix of each part that is elsewhere in a Gligen, and the Gligen's."""
    layers = zip(gligen.widths, gligen.fusers, strict=True)
    fusers = {f"{block.key}.": f"fusers.{layer}." for block, layer in layers}
    return fusers | {FIRST_CONV: "first_conv.conv.", DOWNSAMPLER: f"first_conv.{DOWNSAMPLER}"}


def _moved(name: str, prefixes: dict[str, str]) -> str:
    old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return prefixes.get(old, "") + name[len(old) :]
