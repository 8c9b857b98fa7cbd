"""The one module that patches the host's UNet, and only for the length of a model call.

The host runs a `middle_patch` in each transformer block right after self-attention, GLIGEN's place.
Two ways lead there. Without a schedule the host itself asks a GLIGEN for its patch, for each
conditioning (`Unscheduled`). With one, a wrapper around the sampling run takes the grounding out of
the conditionings, so that they can share a model call, and gives the patch to the whole call where β
is not 0 (`schedule`). Nothing is written into the model, so nothing has to be put back.
"""

from typing import NamedTuple
from uuid import uuid4

import comfy.ldm.modules.attention
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..gligen_ops.errors import GligenError
from ..gligen_ops.gated import GroundingKeys
from ..gligen_ops.model import Block
from ..gligen_ops.schedule import BetaSchedule, step_of
from .entries import tokenizer_inputs

KEY = "gligen_grounding"
NEGATIVE_GROUNDINGS = ("null", "same", "none")
LOAD_ANOTHER = "Load the GLIGEN file that was trained for this base model."


class Grounding(NamedTuple):
    """Entries of a conditioning for one GLIGEN; no entries: its null grounding."""

    seat: object
    entries: list[tuple]


class Layers:
    """Gated layers during a run. Tokens, keys and gates do not change in it: made once, kept here."""

    def __init__(self):
        self._tokens = {}
        self._prepared = {}

    def fuse(
        self, v: Tensor, extra: dict, groundings: list[list[Grounding]], beta: float
    ) -> Tensor:
        """v: visual tokens [B, N, C], B being as many equal chunks as there are lists of groundings;
        extra: what the host tells a patch. Returns v with each chunk grounded."""
        for seat in dict.fromkeys(g.seat for chunk in groundings for g in chunk):
            chunks = [next((g for g in chunk if g.seat is seat), None) for chunk in groundings]
            if None not in chunks:
                v = self._layer(v, extra, chunks, beta)
                continue
            parts = list(v.chunk(len(chunks)))
            rows = [i for i, g in enumerate(chunks) if g is not None]
            grounded = torch.cat([parts[i] for i in rows])
            grounded = self._layer(grounded, extra, [chunks[i] for i in rows], beta)
            for i, part in zip(rows, grounded.chunk(len(rows)), strict=True):
                parts[i] = part
            v = torch.cat(parts)
        return v

    def _layer(self, v: Tensor, extra: dict, chunks: list[Grounding], beta: float) -> Tensor:
        seat = chunks[0].seat
        layer = layer_of(seat, extra, v.shape[-1])
        size = tuple(extra["original_shape"][-2:])
        which = (id(layer), *(id(g.entries) for g in chunks), size, len(v), v.device, v.dtype)
        if which not in self._prepared:
            tokens = torch.cat([self._tokens_of(g, size, v.device) for g in chunks]).to(v.dtype)
            each = len(v) // len(chunks)
            keys = GroundingKeys(*(k.repeat_interleave(each, 0) for k in layer.keys(tokens)))
            gates = tuple(gate.to(v.device) for gate in layer.gates())
            self._prepared[which] = keys, gates
        keys, gates = self._prepared[which]
        heads = extra["n_heads"]

        def attention(q, k, v, heads):
            return comfy.ldm.modules.attention.optimized_attention(
                q, k, v, heads, attn_precision=extra["attn_precision"], transformer_options=extra
            )

        return layer(v, keys, heads, gates, beta, attention)

    def _tokens_of(self, grounding: Grounding, size: tuple[int, int], device) -> Tensor:
        """Grounding tokens [1, G, D] in float32. The entries are kept too, or their id could return."""
        seat, entries = grounding
        which = (id(seat), id(entries), size, device)
        if which not in self._tokens:
            inputs = tokenizer_inputs(entries, *size, seat.slots, seat.text_width)
            tokens = seat.gligen.position_net(*(t.to(device) for t in inputs))
            self._tokens[which] = tokens, entries
        return self._tokens[which][0]


class Unscheduled:
    """A run without a schedule: β is 1, and the host copies the positive's grounding onto the other
    conditionings, which get the null grounding instead."""

    def __init__(self, seat):
        self.seat = seat
        self.forget()

    def forget(self) -> None:
        """A run is over."""
        self._layers = Layers()
        self._first_index: dict[object, int] = {}
        self._null: list[tuple] = []

    def middle_patch(self, entries: list[tuple] | None):
        """The patch for one conditioning; entries None: for one that is not grounded."""
        entries = self._null if entries is None else entries

        def middle_patch(v, extra):
            groundings = [
                [Grounding(self.seat, entries if self._is_positive(*which) else self._null)]
                for which in zip(extra["uuids"], extra["cond_or_uncond"], strict=True)
            ]
            return self._layers.fuse(v, extra, groundings, beta=1.0)

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


def schedule(model, betas: BetaSchedule, negative_grounding: str, own):
    """A clone of the MODEL whose runs ground with this schedule.

    negative_grounding: what the unconditional branch gets: "null", as in the paper; "same" as the
    positive, as in the host's core; or "none", no gated layers at all. own: makes a GLIGEN that the
    host's loader read into one of this pack.
    """

    def outer_sample(executor, *args, **kwargs):
        with Scheduled(executor.class_obj, betas, negative_grounding, own):
            return executor(*args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return model


class Scheduled:
    """One sampling run of a guider with a schedule."""

    def __init__(self, guider, betas: BetaSchedule, negative_grounding: str, own):
        self.guider, self.betas, self.negative_grounding = guider, betas, negative_grounding
        self.layers = Layers()
        self.null: list[tuple] = []
        self.own: dict[tuple[str, object], Grounding] = {}  # by name of the list and uuid
        self.stripped: dict[int, tuple[dict, dict]] = {}
        self.groundings: dict[object, list[Grounding]] = {}  # by uuid of the stripped cond
        self.beta_of_step: list[float] | None = None
        for name, conds in guider.conds.items():
            for cond in conds:
                if cond.get("gligen") is not None:
                    patcher = own(cond["gligen"][1])
                    check_fit(guider.model_patcher, patcher.model)
                    cond["gligen"] = ("position", patcher, cond["gligen"][2])
                    self.own[name, cond["uuid"]] = Grounding(patcher.model, cond["gligen"][2])
        self.seats = list(dict.fromkeys(g.seat for g in self.own.values()))

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
        beta = self.beta(timestep, model_options["transformer_options"]["sample_sigmas"])
        if beta == 0:
            return executor(model, conds, x, timestep, model_options)

        def middle_patch(v, extra):
            groundings = [self.groundings.get(uuid, []) for uuid in extra["uuids"]]
            return self.layers.fuse(v, extra, groundings, beta)

        return executor(model, conds, x, timestep, with_middle_patch(model_options, middle_patch))

    def beta(self, timestep: Tensor, sigmas: Tensor) -> float:
        if self.beta_of_step is None:
            self.sigmas = sigmas.tolist()
            self.beta_of_step = self.betas.betas(max(1, len(self.sigmas) - 1))
        return self.beta_of_step[step_of(timestep.flatten()[0].item(), self.sigmas)]

    def strip(self, cond: dict) -> dict:
        """The cond without its grounding, which is noted under a uuid of its own: the host gives the
        copy of a cond that it makes for another list the uuid of the original."""
        if id(cond) not in self.stripped:
            bare = {k: v for k, v in cond.items() if k != "gligen"}
            groundings = self.grounding_of(cond)
            if groundings:
                bare["uuid"] = uuid4()
                self.groundings[bare["uuid"]] = groundings
            self.stripped[id(cond)] = bare, cond
        return self.stripped[id(cond)][0]

    def grounding_of(self, cond: dict) -> list[Grounding]:
        name = next((n for n, cs in self.guider.conds.items() if any(c is cond for c in cs)), None)
        own = self.own.get((name, cond["uuid"]))
        if own is not None:
            return [own]
        if name == "positive" or self.negative_grounding == "none":
            return []
        if self.negative_grounding == "same":
            copied = cond.get("gligen")
            return [Grounding(copied[1].model, copied[2])] if copied else []
        return [Grounding(seat, self.null) for seat in self.seats]


def with_middle_patch(model_options: dict, patch) -> dict:
    """A copy of the options with one more patch."""
    transformer = dict(model_options["transformer_options"])
    patches = dict(transformer.get("patches", {}))
    patches["middle_patch"] = [*patches.get("middle_patch", []), patch]
    return {**model_options, "transformer_options": {**transformer, "patches": patches}}


def layer_of(seat, extra: dict, width: int):
    """The gated layer for the block of the UNet, of this width, that a patch was called in. Raises
    GligenError where the GLIGEN has none."""
    place = ("transformer", extra["transformer_index"]) if seat.by_order else extra["block"]
    block = Block(*place, extra["block_index"])
    if seat.gligen.widths.get(block) != width:
        raise GligenError(
            f"gligen: {seat.name} does not fit the model. It has gated layers for "
            f"{outline(seat.gligen.widths)}, and none for the model's block {block} of width {width}. "
            f"{LOAD_ANOTHER}"
        )
    return seat.gligen.layer(block)


def blocks_of(unet, by_order: bool = False) -> dict[Block, int]:
    """Width of each transformer block of the host's UNet, in the order in which they run."""
    middle = [] if unet.middle_block is None else [unet.middle_block]
    parts = (("input", unet.input_blocks), ("middle", middle), ("output", unet.output_blocks))
    widths = {}
    transformers = 0
    for kind, blocks in parts:
        for number, layers in enumerate(blocks):
            for layer in layers:
                if not hasattr(layer, "transformer_blocks"):
                    continue
                for index, block in enumerate(layer.transformer_blocks):
                    place = ("transformer", transformers) if by_order else (kind, number)
                    widths[Block(*place, index)] = block.attn1.to_q.in_features
                transformers += 1
    return widths


def check_fit(model, seat) -> None:
    """Raises GligenError, naming both, where the GLIGEN was not trained for this UNet's shape."""
    unet = model.model.diffusion_model
    base = type(model.model.model_config).__name__
    if not hasattr(unet, "input_blocks"):
        raise GligenError(
            f"model: GLIGEN grounds SD 1.x, SD 2.x and SDXL models, and this one is {base}."
        )
    expected = blocks_of(unet, seat.by_order)
    came = seat.gligen.widths
    if came != expected:
        raise GligenError(
            f"gligen: {seat.name} does not fit the model. It has gated layers for {outline(came)}; "
            f"the model ({base}) has transformer blocks for {outline(expected)}. {LOAD_ANOTHER}"
        )


def outline(widths: dict[Block, int]) -> str:
    values = list(widths.values())
    counts = {w: values.count(w) for w in dict.fromkeys(values)}
    return (
        f"{len(values)} blocks (" + ", ".join(f"{n} of width {w}" for w, n in counts.items()) + ")"
    )
