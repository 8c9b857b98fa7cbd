from torch import Tensor

from ...gligen_ops.errors import GligenError


def three_channels(image: Tensor) -> Tensor:
    """[B, H, W, C] of a grey, a colour or a transparent picture → [B, H, W, 3]."""
    channels = image.shape[-1]
    if channels not in (1, 3, 4):
        raise GligenError(
            f"image: it has {channels} channels; expected a grey (1), a colour (3) or a transparent (4) "
            "picture."
        )
    return image.expand(*image.shape[:-1], 3) if channels == 1 else image[..., :3]
