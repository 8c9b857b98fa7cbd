"""Whether a GLIGEN was trained for the host's UNet."""

from comfy.model_patcher import ModelPatcher

from ...gligen_ops.errors import GligenError
from ...gligen_ops.layers.first_conv import LATENT
from ...gligen_ops.model import blocks_of
from .gligens import LOAD_ANOTHER, LoadedGligen, outline


def check_fit(model: ModelPatcher, gligen: LoadedGligen) -> None:
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
