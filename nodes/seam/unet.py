"""Whether a GLIGEN was trained for the host's UNet, and which of its layers belongs to a block."""

from typing import TYPE_CHECKING

from comfy.model_patcher import ModelPatcher

from ...gligen_ops.errors import GligenError
from ...gligen_ops.layers.first_conv import LATENT
from ...gligen_ops.layers.gated_self_attention import GatedLayer
from ...gligen_ops.model import Block, blocks_of

if TYPE_CHECKING:
    from .gligens import LoadedGligen

LOAD_ANOTHER = "Load the GLIGEN file that was trained for this base model."


def layer_of(gligen: "LoadedGligen", extra: dict, width: int) -> GatedLayer:
    """The gated layer for the block of the UNet, of this width, that a patch was called in. Raises
    GligenError where the GLIGEN has none."""
    number = ("transformer", extra["transformer_index"]) if gligen.by_order else extra["block"]
    block = Block(*number, extra["block_index"])
    if gligen.net.widths.get(block) != width:
        raise GligenError(
            f"gligen: {gligen.name} does not fit the model. It has gated layers for "
            f"{outline(gligen.net.widths)}, and none for the model's block {block} of width {width}. "
            f"{LOAD_ANOTHER}"
        )
    return gligen.net.layer(block)


def check_fit(model: ModelPatcher, gligen: "LoadedGligen") -> None:
    """Raises GligenError, naming both, where the GLIGEN was not trained for this UNet's shape."""
    unet = model.model.diffusion_model
    base = type(model.model.model_config).__name__
    if not hasattr(unet, "input_blocks"):
        raise GligenError(
            f"model: GLIGEN grounds SD 1.x, SD 2.x and SDXL models, and this one is {base}."
        )
    expected = blocks_of(unet, gligen.by_order)
    came = gligen.net.widths
    if came != expected:
        raise GligenError(
            f"gligen: {gligen.name} does not fit the model. It has gated layers for {outline(came)}; "
            f"the model ({base}) has transformer blocks for {outline(expected)}. {LOAD_ANOTHER}"
        )
    if gligen.net.first_conv is not None and unet.in_channels != LATENT:
        raise GligenError(
            f"model: {gligen.name} ({gligen.net.kind.name}) takes the place of the first convolution of "
            f"an ordinary model of {LATENT} channels, and this one ({base}) has {unet.in_channels}: it "
            "is an inpainting or editing model. Load the ordinary one."
        )


def outline(widths: dict[Block, int]) -> str:
    values = list(widths.values())
    counts = {w: values.count(w) for w in dict.fromkeys(values)}
    return (
        f"{len(values)} blocks (" + ", ".join(f"{n} of width {w}" for w, n in counts.items()) + ")"
    )
