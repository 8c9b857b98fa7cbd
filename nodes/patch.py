"""The one module that patches the host's UNet, and only for the length of a model call.

The host runs a `middle_patch` in each transformer block right after self-attention, GLIGEN's place, and
an `input_block_patch` after each block on the way down, the first convolution among them. Two ways lead
there. Without a schedule the host itself asks a GLIGEN for its patch, for each conditioning
(`Unscheduled`). With one, a wrapper around the sampling run takes the grounding out of the
conditionings, so that they can share a model call, and gives the patches to the whole call where β is
not 0 (`schedule`). Nothing is written into the model but, for a forward of a UNet that the host compiles,
which compilation it uses.
"""

from uuid import uuid4

import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch import Tensor

from ..gligen_ops.errors import GligenError
from ..gligen_ops.schedule import BetaSchedule
from .betas import Betas
from .compiled import compiled_for, untraced
from .entries import KEY as COND_KEY
from .entries import Entry, carried, entries_of
from .residuals import Residuals
from .run import LOOK, Grounding, Part, Run, groundings, parts_of
from .unet import check_fit

KEY = "gligen_grounding"
NEGATIVE_GROUNDINGS = ("null", "same", "none")
FIRST_BLOCK = ("input", 0)


class Unscheduled:
    """A run without a schedule: β is 1, and the host copies the positive's grounding onto the other
    conditionings, which get the null grounding instead."""

    def __init__(self, seat_of):
        self.seat_of = seat_of
        self.forget()

    def forget(self) -> None:
        """A run is over."""
        self._run = Run()
        self._first_index: dict[object, int] = {}
        self._groundings: dict[int, tuple] = {}
        self._null: list[Entry] = []
        self._parts: dict[tuple, list[Part]] = {}

    def middle_patch(self, seat, entries: list[tuple]):
        """The patch for one conditioning, given to a seat with these entries."""
        if id(entries) not in self._groundings:
            own_entries = entries_of({COND_KEY: ("position", seat, entries)})
            positive = groundings(own_entries, self.seat_of)
            for g in positive:
                if g.convolves:
                    raise GligenError(
                        f"gligen: {g.seat.name} ({g.seat.gligen.kind.name}) also takes the place of the "
                        "model's first convolution. Put a GLIGEN β Schedule node between the model and "
                        "the sampler, or use the GLIGEN KSampler."
                    )
            null = [Grounding(g.seat, self._null, g.strength) for g in positive]
            self._groundings[id(entries)] = positive, null, entries
        positive, null, _ = self._groundings[id(entries)]

        def middle_patch(v, extra):
            places = zip(extra["uuids"], extra["cond_or_uncond"], strict=True)
            signs = tuple(self._is_positive(*place) for place in places)
            which = id(entries), signs, tuple(extra["original_shape"]), v.device
            if which not in self._parts:
                self._parts[which] = parts_of([positive if sign else null for sign in signs])
            return self._run.fuse(v, extra, self._parts[which], beta=1.0)

        return middle_patch

    def _is_positive(self, uuid, index: int) -> bool:
        """In the first model call of a run the host's samplers give the positive conditioning first
        and the negative second. (Later calls, for guidance, may give either alone.)"""
        first = self._first_index.setdefault(uuid, index)
        if first > 1:
            raise GligenError(
                "This guider runs more than a positive and a negative conditioning. Put a GLIGEN β "
                "Schedule node between the model and the guider, so that GLIGEN can tell them apart."
            )
        return first == 0


def schedule(model, betas: BetaSchedule, negative_grounding: str, own, refresh_every: int = 1):
    """A clone of the MODEL whose runs ground with this schedule.

    negative_grounding: what the unconditional branch gets: "null", as in the paper; "same" as the
    positive, as in the host's core; or "none", no gated layers at all. own: makes a GLIGEN that the
    host's loader read into one of this pack. refresh_every: see `Residuals`.
    """

    def outer_sample(executor, noise, latent, sampler, sigmas, mask, callback, *args, **kwargs):
        its_betas = Betas(betas, sampler, sigmas)

        def reported(step, *state):
            its_betas.report(step)
            if callback is not None:
                callback(step, *state)

        with Scheduled(executor.class_obj, its_betas, negative_grounding, own, refresh_every):
            return executor(noise, latent, sampler, sigmas, mask, reported, *args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return model


def watched(model, begin, look):
    """A clone of the MODEL whose gated layers tell of their attention. begin: called where a run begins;
    look: of each attention, see `Run`."""

    def outer_sample(executor, *args, **kwargs):
        begin()
        return executor(*args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, LOOK)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, LOOK, outer_sample)
    # A function of its own: the host copies bound methods with all that they are bound to.
    model.model_options["transformer_options"][LOOK] = lambda *args: look(*args)
    return model


class Scheduled:
    """One sampling run of a guider with a schedule."""

    def __init__(self, guider, betas: Betas, negative_grounding: str, own, refresh_every: int):
        self.guider, self.betas, self.negative_grounding = guider, betas, negative_grounding
        self.residuals = Residuals(refresh_every)
        self.run = Run(guider.model_patcher.model.process_latent_in)
        self.null: list[Entry] = []
        self.own: dict[tuple[str, object], list[Grounding]] = {}  # by name of the list and uuid
        self.same: dict[int, list[Grounding]] = {}  # by id of the entries
        self.stripped: dict[int, tuple[dict, dict]] = {}
        self.groundings: dict[object, list[Grounding]] = {}  # by uuid of the stripped cond
        self.parts: dict[tuple, list[Part]] = {}
        for name, conds in guider.conds.items():
            for cond in conds:
                entries = entries_of(cond)
                if not entries:
                    continue
                patchers = list(dict.fromkeys(own(e.gligen) for e in entries))
                its = groundings(entries, lambda gligen: own(gligen).model)
                for g in its:
                    check_fit(guider.model_patcher, g.seat, g.convolves)
                cond.update(carried(cond, patchers, entries))
                self.own[name, cond["uuid"]] = self.same[id(entries)] = its
        self.nulls: dict[object, Grounding] = {}
        for g in [g for its in self.own.values() for g in its]:
            self.nulls.setdefault(g.seat, g._replace(entries=self.null))

    def __enter__(self) -> None:
        if self.own:
            comfy.patcher_extension.add_wrapper_with_key(
                WrappersMP.CALC_COND_BATCH, KEY, self.calc_cond_batch,
                self.guider.model_options, is_model_options=True,
            )  # fmt: skip

    def __exit__(self, *_) -> None:
        wrappers = self.guider.model_options["transformer_options"].get("wrappers", {})
        wrappers.get(WrappersMP.CALC_COND_BATCH, {}).pop(KEY, None)

    def calc_cond_batch(self, executor, model, conds, x, timestep, model_options):
        """Around each model call of the run."""
        conds = [c if c is None else [self.strip(cond) for cond in c] for c in conds]
        beta = self.betas.of_call(timestep)
        convolves = any(g.inpaints or (beta and g.convolves) for g in self.nulls.values())
        if not beta and not convolves:
            return executor(model, conds, x, timestep, model_options)
        model_options = comfy.model_patcher.create_model_options_clone(model_options)
        options = model_options["transformer_options"]
        compilation = model_options.get(TORCH_COMPILE_KWARGS)
        forward = self.forward(beta, convolves, compilation)
        comfy.patcher_extension.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, forward, options)
        if convolves:
            first = untraced(self.first_convolution(beta), compilation)
            comfy.patcher_extension.add_wrapper_with_key(
                WrappersMP.DIFFUSION_MODEL, KEY, first, options
            )
        return executor(model, conds, x, timestep, model_options)

    def forward(self, beta: float, convolves: bool, compilation: dict | None):
        """A wrapper around a forward of the UNet, for the conditionings that share it. compilation: how
        the host compiles the UNet, if it does."""

        def apply_model(executor, x, t, concat, context, control, options, **kwargs):
            parts = self.parts_of(options["uuids"], x) if beta else []
            traced = self.residuals.every == 1 and not convolves and LOOK not in options
            if parts:
                patch = (
                    self.traced_patch(parts, beta, x.device)
                    if traced
                    else untraced(self.keeping_patch(parts, beta), compilation)
                )
                patches = options.get("patches", {})
                ours = [*patches.get("middle_patch", []), patch]
                options = {**options, "patches": {**patches, "middle_patch": ours}}
            with compiled_for(executor.class_obj, compilation, parts if traced else None):
                return executor(x, t, concat, context, control, options, **kwargs)

        return apply_model

    def traced_patch(self, parts: list[Part], beta: float, device):
        level = torch.full((), beta, device=device)  # a number would be fixed in a graph
        return lambda v, extra: self.run.fuse(v, extra, parts, level)

    def keeping_patch(self, parts: list[Part], beta: float):
        def middle_patch(v, extra):
            where = (*extra["block"], extra["block_index"], id(parts))
            return self.residuals.fuse(
                v, where, beta, lambda v: self.run.fuse(v, extra, parts, beta)
            )

        return middle_patch

    def parts_of(self, uuids: list, x: Tensor) -> list[Part]:
        """Of the conditionings that share a forward."""
        which = (*uuids, x.shape, x.device)
        if which not in self.parts:
            self.parts[which] = parts_of([self.groundings.get(uuid, []) for uuid in uuids])
        return self.parts[which]

    def first_convolution(self, beta: float):
        """A wrapper around the UNet that puts the GLIGENs' first convolutions in place of its own. Where
        β is 0 it has its own back, but an inpainting model's, which has to see what it paints into."""

        def diffusion_model(executor, x, timesteps, context, y, control, options, **kwargs):
            base = executor.class_obj.input_blocks[0]

            def input_block_patch(h, extra):
                if extra["block"] != FIRST_BLOCK:
                    return h
                chunks = [
                    [g for g in self.groundings.get(u, []) if g.inpaints or (beta and g.convolves)]
                    for u in extra["uuids"]
                ]
                return self.run.first_conv(h, x, base[0], chunks)

            patches = options.get("patches", {})
            ours = [input_block_patch, *patches.get("input_block_patch", [])]
            options = {**options, "patches": {**patches, "input_block_patch": ours}}
            return executor(x, timesteps, context, y, control, options, **kwargs)

        return diffusion_model

    def strip(self, cond: dict) -> dict:
        """The cond without its grounding, which is noted under a uuid of its own: the host gives the
        copy of a cond that it makes for another list the uuid of the original."""
        if id(cond) not in self.stripped:
            bare = {k: v for k, v in cond.items() if k != COND_KEY}
            its = self.groundings_of(cond)
            if its:
                bare["uuid"] = uuid4()
                area = tuple(cond["area"]) if cond.get("area") is not None else None
                self.groundings[bare["uuid"]] = [g._replace(area=area) for g in its]
            self.stripped[id(cond)] = bare, cond
        return self.stripped[id(cond)][0]

    def groundings_of(self, cond: dict) -> list[Grounding]:
        name = next((n for n, cs in self.guider.conds.items() if any(c is cond for c in cs)), None)
        own = self.own.get((name, cond["uuid"]), [])
        if name == "positive" or self.negative_grounding == "none":
            return own
        if self.negative_grounding == "same":
            copied = cond.get(COND_KEY)
            return own or (self.same.get(id(copied[2]), []) if copied else [])
        seats = [g.seat for g in own]
        return own + [g for seat, g in self.nulls.items() if seat not in seats]
