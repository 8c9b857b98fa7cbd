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

from ...gligen_ops.fitting import Size
from ...gligen_ops.places import WHOLE, Box
from ...gligen_ops.schedule import BetaSchedule
from .channels import Channels
from .conditioning import Entry, area_of, entries_of
from .gligens import LoadedGligen
from .grounders import Grounder
from .groundings import Grounding, groundings, strongest
from .tags import UNKNOWN, Row, Tagging
from .unet import check_fit

NEGATIVE_GROUNDINGS = ("null", "same", "none")
CUT = (
    "GLIGEN: something cuts the latent into pieces and tells nobody which piece it is, so nothing is "
    "placed in them. Take that node out, or use one that cuts conditionings as well, such as Ultimate SD "
    "Upscale or Tiled Diffusion."
)
SEVERAL = (
    "GLIGEN: several prompts each have a map, or a picture to be painted into, for the same part of the "
    "picture. The negative prompt looks at the first of them."
)
LOST = (
    "GLIGEN: a node around the model drops what conditionings bring, so nothing is placed in this picture. "
    "Take that node out; it is one that wraps the UNet's calls."
)


@dataclass(frozen=True)
class Settings:
    """What a schedule node sets.

    negative: what conds get that ground nothing themselves: "null", as in the paper; "same" as the positive,
    as in the host's core; or "none", no gated layers at all. refresh_every: how many model calls share what
    the gated layers add. count: of betas.COUNTS, what shares are of.
    """

    betas: BetaSchedule = BetaSchedule()
    negative: str = "null"
    refresh_every: int = 1
    count: str = "automatic"


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
        known: dict[LoadedGligen, LoadedGligen] = {}
        self.conds = [
            _cond(
                cond,
                name == "positive",
                _of_one_file(entries_of(cond, size, region), known),
                area_of(cond, size),
                sampling,
            )
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
        self._negatives: dict[tuple, Grounding] = {}
        self._lock = Lock()
        self._warnings: set[str] = set()
        self._was_known = False

    @property
    def longest(self) -> int:
        """How many pictures anything is grounded in."""
        entries = [e for g in self.groundings for e in (*g.entries, g.channels) if e]
        return max((e.length for e in entries), default=1)

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
        key = rows, active, x.shape, x.dtype, x.device
        with self._lock:  # several GPUs share a run among threads
            if key not in self._calls:
                known = [row for row in rows if row.cond != UNKNOWN]
                self._was_known = self._was_known or bool(known)
                if any(row.region is None for row in known):
                    self._warn(CUT)
                self._calls[key] = self._make(rows, active, x)
            return self._calls[key]

    def _active(self, sigma: float | None) -> tuple[Cond, ...]:
        """The conds that ground anything at this noise level."""
        return tuple(
            c for c in self.conds if c.groundings and (sigma is None or c.end <= sigma <= c.start)
        )

    def _make(self, rows: tuple[Row, ...], active: tuple[Cond, ...], x: Tensor) -> Call:
        grounded: dict[tuple[LoadedGligen, float], dict[int, Grounding]] = {}
        convolved: dict[Grounding, list[int]] = {}
        for number, row in enumerate(rows):
            for g in self._groundings_of(row, active):
                strength = g.strength_at(row.picture)
                if strength:
                    grounded.setdefault((g.gligen, strength), {})[number] = g
                if g.channels:
                    convolved.setdefault(g, []).append(number)
        size = tuple(x.shape[-2:])
        scale = self.process_latent_in
        return Call(
            [Grounder(*key, found, rows, size, x.device) for key, found in grounded.items()],
            [Channels(g, numbers, rows, x, scale) for g, numbers in convolved.items()],
        )

    def _groundings_of(self, row: Row, active: tuple[Cond, ...]) -> list[Grounding]:
        """A cond of the positive that grounds nothing by a GLIGEN stays as it is; any other gets what the
        negative does."""
        cond = self.conds[row.cond] if row.cond != UNKNOWN else UNKNOWN_COND
        if cond.positive or self.settings.negative == "none":
            return list(cond.groundings)
        grounded_by = {g.gligen for g in cond.groundings}
        gligens = dict.fromkeys(g.gligen for c in active for g in c.groundings)
        rest = [gligen for gligen in gligens if gligen not in grounded_by]
        return [*cond.groundings, *(self._of_negative(g, row.region, active) for g in rest)]

    def _of_negative(
        self, gligen: LoadedGligen, region: Box | None, active: tuple[Cond, ...]
    ) -> Grounding:
        """What the negative gets of a GLIGEN in a region: the null grounding, or all that the positive
        grounds there, and what lies beside the latent there."""
        key = gligen, region, active
        if key not in self._negatives:
            found = [(c, g) for c in active for g in c.groundings if g.gligen is gligen]
            found = [pair for pair in found if pair[0].positive] or found
            there = [pair for pair in found if region is not None and pair[0].area.covers(region)]
            nearest = there or found
            area = min((c.area for c, _ in nearest), key=lambda a: a.width * a.height)
            chosen = [g for c, g in nearest if c.area == area]
            same = self.settings.negative == "same"
            entries = tuple(dict.fromkeys(e for g in chosen for e in g.entries)) if same else ()
            gligen.check_count(len(entries))
            self._negatives[key] = replace(
                chosen[0],
                entries=entries,
                channels=self._channels_of(chosen, is_there=bool(there)),
                strengths=strongest(chosen),
            )
        return self._negatives[key]

    def _channels_of(self, chosen: list[Grounding], is_there: bool) -> Entry | None:
        """What lies beside the latent where several conds are for the same part of the picture. is_there:
        whether they are for the row's; a picture that is painted into is for every part."""
        channels = [g.channels for g in chosen if g.channels and (is_there or g.inpaints)]
        channels = list(dict.fromkeys(channels))
        if len(channels) > 1:
            self._warn(SEVERAL)
        return channels[0] if channels else None

    def warn_of_lost_tags(self) -> None:
        """Say so, at the end of a run, where no row of any call was known."""
        if self._calls and not self._was_known:
            self._warn(LOST)

    def _warn(self, text: str) -> None:
        if text not in self._warnings:
            logging.warning(text)
            self._warnings.add(text)


UNKNOWN_COND = Cond(False, (), WHOLE)


def _of_one_file(entries: list[Entry], known: dict[LoadedGligen, LoadedGligen]) -> list[Entry]:
    """The entries, each by the first GLIGEN of the run that has its GLIGEN's weights: a file may be loaded by
    this pack and by the host. known: the first of each so far."""
    found = []
    for entry in entries:
        gligen = entry.gligen
        if gligen not in known:
            firsts = set(known.values())
            known[gligen] = next((one for one in firsts if one.has_weights_of(gligen)), gligen)
        first = known[gligen]
        found.append(entry if first is gligen else replace(entry, gligen=first))
    return found


def _cond(cond: dict, positive: bool, entries: list[Entry], area: Box, sampling) -> Cond:
    limits = [dict(cond)]
    calculate_start_end_timesteps(SimpleNamespace(model_sampling=sampling), limits)
    start = limits[0].get("timestep_start", math.inf)
    end = limits[0].get("timestep_end", -math.inf)
    return Cond(positive, groundings(entries, area), area, start, end)
