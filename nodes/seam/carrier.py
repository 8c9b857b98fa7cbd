"""How grounding travels in a conditioning: as a ControlNet does, which every pack knows how to carry, to
chain, to copy and to cut.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from types import SimpleNamespace

import comfy.controlnet
import comfy.hooks
import torch
from comfy.controlnet import ControlBase
from torch import Tensor
from torch.nn.functional import interpolate

from ...gligen_ops.errors import GligenError
from ...gligen_ops.places import WHOLE, Box

CONTROL, MASK, AREA = "control", "mask", "area"
"""The keys of a cond's ControlNets, and of where in the picture it holds."""
FOLLOWS_NO_MORE = (
    "conditioning: it is to follow a detailer, but has got another mask since. Put GLIGEN Fit to Region "
    "after Conditioning Set Mask."
)
FITTED_IN_PART = (
    "conditioning: some of what it grounds is fitted to a region of the picture and some is not, or to "
    "another. Put GLIGEN Fit to Region after all other GLIGEN nodes, also in the negative prompt where that "
    "has boxes."
)
FITTED_AREA = (
    "conditioning: it is fitted to a region, and so is for all of the crop; it cannot be for an area as "
    "well. Take Conditioning Set Area out."
)
HOST_GLIGEN = "gligen"
"""The key under which nodes of the host and of other packs put grounding into a cond."""
HINT = 512
"""Pixels a side of the map of coordinates: a region is known to one of them."""
HOOKS = comfy.hooks.HookGroup()
"""What every carrier brings: patch.py puts the wrapper around a run into it."""
RUN_ONLY = {"previous_controlnet", "cond_hint", "extra_concat", "timestep_range", "multigpu_clones"}
"""Attributes of a ControlNet that do not say what it does."""


@cache
def coordinates() -> Tensor:
    """x and y of each pixel of the whole picture, [1, 2, HINT, HINT]."""
    c = (torch.arange(HINT) + 0.5) / HINT
    return torch.stack(torch.meshgrid(c, c, indexing="xy"))[None]


class Carrier(comfy.controlnet.ControlNet):
    """A ControlNet that controls nothing. It carries entries, and brings the wrapper of a run, which takes
    it out again. Its hint is a map of coordinates: whoever cuts a picture into pieces cuts the hints of
    its ControlNets alike, and so a carrier knows which region it is for. fitted: the region, of each picture,
    that the hint is a map of. follows: whether the cond's mask is such a map as well (see `to_follow`).

    Its hooks are hidden from `get_extra_hooks`: the host would take a second copy of a model with dynamic
    memory for a cond that has some, and registers them all the same.
    """

    def __init__(
        self,
        entries: tuple = (),
        previous: ControlBase | None = None,
        hint: Tensor | None = None,
        fitted: tuple[Box, ...] = (WHOLE,),
        follows: bool = False,
    ):
        super().__init__()
        self.entries = tuple(entries)
        self.previous_controlnet = previous
        self.cond_hint_original = coordinates() if hint is None else hint
        self.fitted, self.follows = tuple(fitted), follows
        self.extra_hooks = HOOKS
        self.control_model = SimpleNamespace(dtype=torch.float32)  # some who cut hints ask for it
        self.device = torch.device("cpu")

    def regions(self, mask: Tensor | None = None) -> list[Box]:
        """The region of the whole picture that each picture of a batch shows. mask: the cond's."""
        if self.follows and (mask is None or len(mask) != 3):
            raise GligenError(FOLLOWS_NO_MORE)
        hint = mask[None, 1:] if self.follows else self.cond_hint_original
        cut = [WHOLE] if hint is coordinates() else [_extent(one) for one in hint.float().cpu()]
        count = max(len(cut), len(self.fitted))
        return [
            cut[i % len(cut)].placed_in(self.fitted[i % len(self.fitted)]) for i in range(count)
        ]

    def with_(self, **changes) -> "Carrier":
        """The same with other values."""
        hint = self.cond_hint_original
        values = dict(
            entries=self.entries, previous=self.previous_controlnet, fitted=self.fitted,
            follows=self.follows, hint=None if hint is coordinates() else hint,
        )  # fmt: skip
        return Carrier(**values | changes)

    def copy(self) -> "Carrier":
        copied = self.with_(previous=None)
        self.copy_to(copied)
        return copied

    def __deepcopy__(self, memo) -> "Carrier":
        return self.with_(previous=deepcopy(self.previous_controlnet, memo))

    def __reduce__(self):
        hint = None if self.cond_hint_original is coordinates() else self.cond_hint_original
        return Carrier, (self.entries, self.previous_controlnet, hint, self.fitted, self.follows)

    def get_extra_hooks(self) -> list:
        previous = self.previous_controlnet
        return [] if previous is None else previous.get_extra_hooks()

    def get_models(self) -> list:
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def get_control(self, *args):
        raise GligenError(
            "This sampler runs the model without the wrappers of its conditionings, so that GLIGEN cannot "
            "ground in it. Put a GLIGEN β Schedule node between the model and the sampler, or use the "
            "GLIGEN KSampler."
        )


torch.serialization.add_safe_globals([Carrier])


def _extent(coordinates: Tensor) -> Box:
    """Which region a piece of a map of coordinates [2, h, w] covers, resized or not."""
    x0, x1 = _ends(coordinates[0].mean(0))
    y0, y1 = _ends(coordinates[1].mean(1))
    return Box(x0, y0, x1, y1)


def _ends(values: Tensor) -> tuple[float, float]:
    """Where the line through the values begins and ends, to a pixel of the whole map."""
    place = torch.arange(len(values)) - (len(values) - 1) / 2
    centred = values - values.mean()
    slope = (centred * place).sum() / (place * place).sum().clamp(min=1)
    reach = (slope * len(values) / 2).clamp(min=0.5 / HINT)
    ends = (values.mean() - reach).item(), (values.mean() + reach).item()
    return tuple(min(max(round(v * HINT) / HINT, 0.0), 1.0) for v in ends)


def carriers_of(cond: dict) -> list[Carrier]:
    """Those of a cond, the first put in first."""
    found, control = [], cond.get(CONTROL)
    while control is not None:
        if isinstance(control, Carrier):
            found.insert(0, control)
        control = control.previous_controlnet
    return found


def carried_by(cond: dict) -> list:
    """The entries of a cond's carriers."""
    return [entry for carrier in carriers_of(cond) for entry in carrier.entries]


def regions_in(conds: dict[str, list[dict]]) -> list[Box]:
    """The region that each picture of a run shows, by the carriers in its conds. All of them are cut alike;
    one that somebody has made since is of the whole. Raises GligenError where they are fitted to several."""
    found = [(cond, c) for some in conds.values() for cond in some for c in carriers_of(cond)]
    if len({(carrier.fitted, carrier.follows) for _, carrier in found}) > 1:
        raise GligenError(FITTED_IN_PART)
    if any(carrier.fitted != (WHOLE,) and AREA in cond for cond, carrier in found):
        raise GligenError(FITTED_AREA)
    regions = (carrier.regions(cond.get(MASK)) for cond, carrier in found)
    return next((some for some in regions if some != [WHOLE]), [WHOLE])


def changed(control: ControlBase | None, change: Callable[[Carrier], dict]) -> ControlBase | None:
    """A chain of ControlNets in which each carrier has the values that `change` gives for it."""
    if control is None:
        return None
    previous = changed(control.previous_controlnet, change)
    if isinstance(control, Carrier):
        return control.with_(previous=previous, **change(control))
    return control.copy().set_previous_controlnet(previous)


def to_follow(mask: Tensor | None) -> Tensor:
    """A mask of a cond [1, h, w], or none, with the map of coordinates under it, [3, h, w]: for those who cut
    a picture and of its conds nothing but their masks."""
    mask = torch.ones(1, HINT, HINT) if mask is None else mask[:1]
    return torch.cat([mask, interpolate(coordinates(), mask.shape[-2:], mode="bilinear")[0]])


def take_off(conds: dict[str, list[dict]]) -> None:
    """Take the grounding out of a guider's conds, and the carriers off their ControlNets. Conds that then
    have ControlNets which are alike get the same ones, as the host runs only such conds in one call of the
    model."""
    bare, known = {}, []

    def rest(control: ControlBase | None) -> ControlBase | None:
        if control is not None and control not in bare:
            previous = rest(control.previous_controlnet)
            if isinstance(control, Carrier):
                bare[control] = previous
            elif previous is control.previous_controlnet:
                bare[control] = _one_of(known, control)
            else:
                bare[control] = _one_of(known, control.copy().set_previous_controlnet(previous))
        return bare.get(control)

    for cond in (cond for cs in conds.values() for cond in cs):
        cond.pop(HOST_GLIGEN, None)
        if any(carrier.follows for carrier in carriers_of(cond)):
            cond[MASK] = cond[MASK][:1]
            if cond[MASK].min() == 1:
                del cond[MASK]
        control = rest(cond.pop(CONTROL, None))
        if control is not None:
            cond[CONTROL] = control


def _one_of(known: list[ControlBase], control: ControlBase) -> ControlBase:
    """One of the known that does what the control does, or the control itself, which is then known."""
    found = next((k for k in known if k is control or _are_alike(k, control)), None)
    if found is None:
        known.append(control)
    return found or control


def _are_alike(a: ControlBase, b: ControlBase) -> bool:
    if type(a) is not type(b) or a.previous_controlnet is not b.previous_controlnet:
        return False
    return _are_same(*({k: v for k, v in vars(c).items() if k not in RUN_ONLY} for c in (a, b)))


def _are_same(a, b) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_are_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_are_same(a[k], b[k]) for k in a)
    if isinstance(a, comfy.hooks.HookGroup):
        return set(a.hooks) == set(b.hooks)
    return isinstance(a, str | int | float | bool) and a == b
