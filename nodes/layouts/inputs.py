"""Inputs that several nodes share."""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ...gligen_ops.places import OVERHANG


def conditioning() -> io.Input:
    return io.Conditioning.Input(
        "conditioning", tooltip="The prompt, or another GLIGEN node's: what it has already is kept."
    )


def pixels(name: str, least: int, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=512, min=least, max=16384, tooltip=tooltip)


def share(name: str, default: float, tooltip: str, least: float = 0.0) -> io.Float.Input:
    return io.Float.Input(
        name, default=default, min=least, max=1.0, step=0.01, round=0.0001, tooltip=tooltip
    )


def box_inputs() -> list[io.Input]:
    return [
        share("x", 0.25, "Left edge, as a share of the image's width: 0 left, 1 right.", -OVERHANG),
        share("y", 0.25, "Top edge, as a share of the image's height: 0 top, 1 bottom.", -OVERHANG),
        share("width", 0.5, "Width of the box, as a share of the image's width."),
        share("height", 0.5, "Height of the box, as a share of the image's height."),
    ]


def curve_input(tooltip: str) -> io.Input:
    return io.MultiType.Input(
        "curve", types=[io.Curve], optional=True, extra_dict={"forceInput": True}, tooltip=tooltip
    )


def curve_of(link: Any) -> Callable[[float], float] | None:
    """What a Curve node's link stands for, 0..1 → 0..1; None where none is connected."""
    if link is None:
        return None
    from comfy_api.input import CurveInput  # hosts that have no Curve node lack it

    return CurveInput.from_raw(link).interp


def strength() -> io.Input:
    return io.Float.Input(
        "strength", default=1.0, min=0.0, max=10.0, step=0.05, round=0.0001, optional=True,
        tooltip="How strongly this grounds: 1 is as trained, 0 is off. The strongest entity of a GLIGEN "
        "model multiplies its β; weaker ones of the same model are attended to less in proportion.",
    )  # fmt: skip
