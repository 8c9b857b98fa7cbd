"""The region of a picture that a crop of it shows, as masks and other packs' nodes tell of it."""

from typing import Any

from torch import Tensor

from ...gligen_ops.errors import GligenError
from ...gligen_ops.fitting import FAINT
from ...gligen_ops.places import Box

STITCHER = ("canvas_to_orig", "cropped_to_canvas")


def of_mask(mask: Tensor) -> list[Box]:
    """The smallest box around what is white in each mask of [N, H, W]."""
    mask = mask.reshape(-1, *mask.shape[-2:])
    return [_around(one, f" {n}" if len(mask) > 1 else "") for n, one in enumerate(mask, start=1)]


def _around(mask: Tensor, number: str) -> Box:
    white = mask > FAINT
    if not white.any():
        raise GligenError(f"mask{number}: it is black everywhere. Paint the region white.")
    rows, columns = white.any(1).nonzero(), white.any(0).nonzero()
    height, width = mask.shape
    return Box(
        columns[0].item() / width, rows[0].item() / height,
        (columns[-1].item() + 1) / width, (rows[-1].item() + 1) / height,
    )  # fmt: skip


def of_segs(segs: Any) -> list[Box]:
    """The crop of Impact Pack's SEGS: ((height, width), [segment]), where there is one."""
    try:
        (height, width), segments = segs
        crops = [[float(v) for v in segment.crop_region] for segment in segments]
        found = [Box(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in crops]
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise GligenError(
            "segs: expected SEGS of the Impact Pack. Connect a detector of it."
        ) from error
    if len(found) != 1:
        raise GligenError(
            f"segs: it has {len(found)} segments, and a conditioning is fitted to one crop. Choose one with "
            "SEGS Filter, or turn follow_detailer on, which fits it to each in turn."
        )
    return found


def of_stitcher(stitcher: Any) -> list[Box]:
    """The crops of Inpaint Crop's stitcher: of each picture where the canvas has the original, and where the
    crop lies on the canvas. A crop may stick out of the picture."""
    try:
        original, crop = (
            [[float(v) for v in stitcher[f"{name}_{side}"]] for side in "xywh"] for name in STITCHER
        )
        pairs = zip(zip(*original, strict=True), zip(*crop, strict=True), strict=True)
        return [
            Box.from_size((x - ox) / ow, (y - oy) / oh, w / ow, h / oh)
            for (ox, oy, ow, oh), (x, y, w, h) in pairs
        ]
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise GligenError(
            "stitcher: expected that of Inpaint Crop (Inpaint-CropAndStitch). Connect its stitcher."
        ) from error
