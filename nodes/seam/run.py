"""One sampling run: what each of its conds grounds, and what a model call needs of that. A run is made where
it begins and gone where it ends. What does not change in it is made once and kept here.
"""

import logging
import math
from dataclasses import dataclass, replace
from threading import Lock
from types import SimpleNamespace
from typing import NamedTuple

from comfy.samplers import CFGGuider, calculate_start_end_timesteps
from torch import Tensor

from ...gligen_ops.entities import WHOLE, Box
from ...gligen_ops.fitting import Size
from ...gligen_ops.schedule import BetaSchedule
from .channels import Channels
from .conditioning import area_of, entries_of
from .gligens import LoadedGligen
from .grounders import Grounder
from .groundings import Grounding, groundings
from .tags import UNKNOWN, Row, Tagging
from .unet import check_fit

NEGATIVE_GROUNDINGS = ("null", "same", "none")
CUT = (
    "GLIGEN: something cuts the latent into pieces and tells nobody which piece it is, so nothing is "
    "placed in them. Take that node out, or use one that cuts conditionings as well, such as Ultimate SD "
    "Upscale or Tiled Diffusion."
)


@dataclass(frozen=True)
class Settings:
    """What a schedule node sets.

    negative: what conds get that ground nothing themselves: "null", as in the paper; "same" as the positive,
    as in the host's core; or "none", no gated layers at all. refresh_every: how many model calls share what
    the gated layers add.
    """

    betas: BetaSchedule = BetaSchedule()
    negative: str = "null"
    refresh_every: int = 1


class Cond(NamedTuple):
    """A cond of the run. start, end: the noise levels between which it is active."""

    positive: bool
    groundings: tuple[Grounding, ...]
    area: Box
    start: float = math.inf
    end: float = -math.inf


class Call(NamedTuple):
    """What model calls with the same rows share."""

    grounders: list[Grounder]
    channels: list[Channels]


class Run:
    """One sampling run.

    guider: the host's, its conds with carriers. size: of the latents. regions: of the whole picture, what
    each latent shows.
    """

    def __init__(self, guider: CFGGuider, size: Size, regions: list[Box], settings: Settings):
        self.size, self.settings = size, settings
        self.process_latent_in = guider.model_patcher.model.process_latent_in
        sampling = guider.model_patcher.get_model_object("model_sampling")
        region = regions[0] if len(regions) == 1 else WHOLE
        self.conds = [
            _cond(cond, name == "positive", size, region, sampling)
            for name, conds in guider.conds.items()
            for cond in conds
        ]
        self.groundings = [g for c in self.conds for g in c.groundings]
        for gligen in dict.fromkeys(g.gligen for g in self.groundings):
            check_fit(guider.model_patcher, gligen)
        self.inpaints = any(g.inpaints for g in self.groundings)
        limits = {(c.start, c.end) for c in self.conds if c.groundings}
        self.is_ranged = bool(limits - {(math.inf, -math.inf)})
        self._calls: dict[tuple, Call] = {}
        self._nulls: dict[Grounding, Grounding] = {}
        self._lock = Lock()
        self._has_warned = False

    @property
    def longest(self) -> int:
        """How many pictures anything is grounded in."""
        entries = [e for g in self.groundings for e in (*g.entries, g.channels) if e]
        return max((len(e.frames) for e in entries), default=1)

    def tag(self, guider: CFGGuider, pictures: list[int], regions: list[Box]) -> Tagging:
        """Put tags on the conds of the guider, and the GLIGENs among what the host loads for them."""
        tagging = Tagging(self.size, pictures, regions)
        conds = [cond for conds in guider.conds.values() for cond in conds]
        for number, (cond, known) in enumerate(zip(conds, self.conds, strict=True)):
            tagging.put_on(cond, number)
            patchers = [g.gligen.patcher for g in known.groundings]
            if patchers:
                others = cond.get("additional_models", [])
                cond["additional_models"] = list(dict.fromkeys([*others, *patchers]))
        return tagging

    def call(self, rows: tuple[Row, ...], x: Tensor, sigma: Tensor) -> Call:
        """rows: what those of x [B, 4, h, w] make. sigma: the noise level, looked at only where some cond
        with grounding is for a part of the run."""
        active = self._active(sigma.flatten()[0].item() if self.is_ranged else None)
        key = rows, tuple(active.values()), x.shape, x.dtype, x.device
        with self._lock:  # several GPUs share a run among threads
            if key not in self._calls:
                self._warn_of_cuts(rows)
                self._calls[key] = self._make(rows, active, x)
            return self._calls[key]

    def _active(self, sigma: float | None) -> dict[LoadedGligen, Grounding]:
        """Of each GLIGEN that is at work at this noise level a grounding."""
        conds = [c for c in self.conds if sigma is None or c.end <= sigma <= c.start]
        found: dict[LoadedGligen, Grounding] = {}
        for g in (g for c in conds for g in c.groundings):
            found.setdefault(g.gligen, g)
        return found

    def _make(self, rows: tuple[Row, ...], active: dict, x: Tensor) -> Call:
        grounded: dict[tuple[LoadedGligen, float], dict[int, Grounding]] = {}
        convolved: dict[Grounding, list[int]] = {}
        for number, row in enumerate(rows):
            for g in self._groundings_of(row, active):
                grounded.setdefault((g.gligen, g.strength), {})[number] = g
                if g.gligen.net.first_conv:
                    convolved.setdefault(g, []).append(number)
        size = tuple(x.shape[-2:])
        scale = self.process_latent_in
        return Call(
            [Grounder(*key, found, rows, size, x.device) for key, found in grounded.items()],
            [Channels(g, numbers, rows, x, scale) for g, numbers in convolved.items()],
        )

    def _groundings_of(self, row: Row, active: dict) -> list[Grounding]:
        """A cond of the positive that grounds nothing by a GLIGEN stays as it is; any other gets its null
        grounding, with what lies beside the latent."""
        cond = self.conds[row.cond] if row.cond != UNKNOWN else UNKNOWN_COND
        if cond.positive or self.settings.negative == "none":
            return list(cond.groundings)
        grounded_by = {g.gligen for g in cond.groundings}
        rest = [g for gligen, g in active.items() if gligen not in grounded_by]
        if self.settings.negative == "same":
            return [*cond.groundings, *(self._of_positive(g.gligen, row) or g for g in rest)]
        return [*cond.groundings, *map(self._null, rest)]

    def _null(self, grounding: Grounding) -> Grounding:
        return self._nulls.setdefault(grounding, replace(grounding, entries=()))

    def _of_positive(self, gligen: LoadedGligen, row: Row) -> Grounding | None:
        """What the positive grounds there, by the cond that is for the row's region if there is one."""
        found = [c for c in self.conds if c.positive and gligen in {g.gligen for g in c.groundings}]
        found.sort(key=lambda c: c.area != row.region)
        return next((g for c in found for g in c.groundings if g.gligen is gligen), None)

    def _warn_of_cuts(self, rows: tuple[Row, ...]) -> None:
        if not self._has_warned and any(row.cond != UNKNOWN and row.region is None for row in rows):
            logging.warning(CUT)
            self._has_warned = True


UNKNOWN_COND = Cond(False, (), WHOLE)


def _cond(cond: dict, positive: bool, size: Size, region: Box, sampling) -> Cond:
    limits = [dict(cond)]
    calculate_start_end_timesteps(SimpleNamespace(model_sampling=sampling), limits)
    start = limits[0].get("timestep_start", math.inf)
    end = limits[0].get("timestep_end", -math.inf)
    area = area_of(cond, size)
    return Cond(positive, groundings(entries_of(cond, size, region), area), area, start, end)
