"""What a sampling run computes of GLIGEN. Tokens, keys, gates and the extra channels of the first
convolution do not change in a run: each is made once and kept here.
"""

import math
from typing import NamedTuple

import comfy.ldm.modules.attention as host_attention
import torch
from comfy.utils import common_upscale
from torch import Tensor

from ..gligen_ops.entity import Inpainting, SpatialMap
from ..gligen_ops.errors import GligenError
from ..gligen_ops.gated import GroundingKeys
from .entries import Entry, entities_at, frame_count
from .unet import layer_of

Area = tuple[int, ...]
LOOK = "gligen_look"
"""In the transformer options: told of each attention of a gated layer, where somebody wants to see it."""


class Grounding(NamedTuple):
    """What one conditioning gives one GLIGEN. entries: none for its null grounding. channels: the entry
    whose map or picture goes into the first convolution. strength: multiplies β. area: of the latent
    that the conditioning is for, (height, width, y, x)."""

    seat: object
    entries: list[Entry]
    strength: float = 1.0
    channels: Entry | None = None
    area: Area | None = None

    @property
    def convolves(self) -> bool:
        """It has a first convolution in place of the UNet's."""
        return self.seat.gligen.first_conv is not None

    @property
    def inpaints(self) -> bool:
        return self.convolves and isinstance(self.channels.frames[0], Inpainting)


def groundings(entries: list[Entry], seat_of) -> list[Grounding]:
    """One for each GLIGEN, in the order of the chain. Of its entities the strongest says how strong its
    residual is; the others are attended to less in proportion. seat_of: of an entry's GLIGEN."""
    found = []
    by_gligen: dict[object, list[Entry]] = {}
    for entry in entries:
        if entry.strength > 0:
            by_gligen.setdefault(seat_of(entry.gligen), []).append(entry)
    for seat, its in by_gligen.items():
        check_count(seat, its)
        channels = next((e for e in its if isinstance(e.frames[0], Inpainting | SpatialMap)), None)
        if seat.gligen.first_conv is not None and channels is None:
            raise GligenError(
                f"gligen: {seat.name} is a {seat.gligen.kind.name} model and needs the picture that is "
                "to be painted into: add a GLIGEN Inpaint node with this model."
            )
        strength = max(e.strength for e in its)
        found.append(Grounding(seat, its, strength, channels))
    return found


def check_count(seat, entries: list[Entry]) -> None:
    count, slots = len(_tokenized(entries)), seat.gligen.position_net.slots
    if count > slots:
        raise GligenError(
            f"gligen: {seat.name} ({seat.gligen.kind.name}) grounds at most {slots} entities, and the "
            f"conditioning carries {count}. Remove {count - slots}."
        )


def _tokenized(entries: list[Entry]) -> list[Entry]:
    return [e for e in entries if not isinstance(e.frames[0], Inpainting)]


class Part(NamedTuple):
    """What a model call gets from one GLIGEN at one strength. rows: those of the call's `count` equal
    chunks that it grounds. groundings: of each of them. layers: by block, made where first needed."""

    seat: object
    strength: float
    count: int
    rows: list[int]
    groundings: list[Grounding]
    layers: dict


def parts_of(chunks: list[list[Grounding]]) -> list[Part]:
    """chunks: the groundings of each chunk of a model call."""
    parts = []
    for seat, strength in dict.fromkeys((g.seat, g.strength) for chunk in chunks for g in chunk):
        its = {
            row: g
            for row, chunk in enumerate(chunks)
            for g in chunk
            if (g.seat, g.strength) == (seat, strength)
        }
        parts.append(Part(seat, strength, len(chunks), list(its), list(its.values()), {}))
    return parts


class Run:
    """process_latent_in: the scale of the model's latents."""

    def __init__(self, process_latent_in=None):
        self.process_latent_in = process_latent_in
        self._tokens = {}
        self._channels = {}

    def fuse(self, v: Tensor, extra: dict, parts: list[Part], beta: float | Tensor) -> Tensor:
        """v: visual tokens [B, N, C]; extra: what the host tells a patch; beta: a number, or a tensor of
        no dimensions. Returns v with each of its chunks grounded. Several GLIGENs each see the same v and
        their residuals add up, so that their order does not matter."""
        grounded = [self._by(part, v, extra, beta) for part in parts]
        if len(grounded) == 1:
            return grounded[0]
        return v + sum(g - v for g in grounded)

    def _by(self, part: Part, v: Tensor, extra: dict, beta) -> Tensor:
        """v grounded by one GLIGEN, in those of its chunks that have something for it."""
        if len(part.rows) == part.count:
            return self._layer(part, v, extra, beta)
        chunks = list(v.chunk(part.count))
        grounded = self._layer(part, torch.cat([chunks[i] for i in part.rows]), extra, beta)
        for i, chunk in zip(part.rows, grounded.chunk(len(part.rows)), strict=True):
            chunks[i] = chunk
        return torch.cat(chunks)

    def _layer(self, part: Part, v: Tensor, extra: dict, beta) -> Tensor:
        where = (*extra["block"], extra["block_index"])
        if where not in part.layers:
            part.layers[where] = self._prepare(part, v, extra)
        layer, keys, gates = part.layers[where]
        heads, grid = extra["n_heads"], tuple(extra["activations_shape"][-2:])
        look = extra.get(LOOK)

        def attention(q, k, v, heads, mask=None):
            if look is not None:
                look(q, k, heads, mask, grid, extra, part.groundings, gates)
            attend = attention_on(v.device)
            precision = extra["attn_precision"]
            return attend(q, k, v, heads, mask, attn_precision=precision, transformer_options=extra)

        return layer(v, keys, heads, gates, beta * part.strength, attention, grid)

    def _prepare(self, part: Part, v: Tensor, extra: dict) -> tuple:
        """Gated layer, keys and gates of a block."""
        layer = layer_of(part.seat, extra, v.shape[-1])
        size, batch = tuple(extra["original_shape"][-2:]), len(v) // len(part.rows)
        keys = self._keys(layer, part.groundings, size, batch, v)
        return layer, keys, tuple(gate.to(v.device) for gate in layer.gates())

    def _keys(self, layer, chunks: list[Grounding], size, batch: int, v: Tensor) -> GroundingKeys:
        """Of each picture of each chunk's batch. A batch longer than the frames holds the last one."""
        rows = []
        for g in chunks:
            tokens, bias = self._tokens_of(g, size, v.device)
            frames = torch.arange(batch).clamp(max=len(tokens) - 1)
            rows.append((tokens, bias, frames))
        tokens = torch.cat([t for t, _, _ in rows]).to(v.dtype)
        starts = torch.tensor([0, *(len(t) for t, _, _ in rows)]).cumsum(0)
        index = torch.cat([start + f for start, (_, _, f) in zip(starts, rows, strict=False)])
        index = index.to(v.device)
        keys = layer.keys(tokens)
        bias = None
        if any(b is not None for _, b, _ in rows):
            zeros = tokens.new_zeros(())
            bias = torch.cat(
                [zeros.expand(len(t), 1, t.shape[1]) if b is None else b.to(v) for t, b, _ in rows]
            )
        parts = (keys.key, keys.value, keys.query, bias)
        return GroundingKeys(*(None if part is None else part[index] for part in parts))

    def _tokens_of(self, grounding: Grounding, size, device) -> tuple[Tensor, Tensor | None]:
        """Grounding tokens [F, G, D] in float32, a row for each frame, and what is added to the logits of
        attention to them [F, 1, G]. The entries are kept too, or their id could return."""
        seat, entries = grounding.seat, grounding.entries
        which = (id(seat), id(entries), size, device)
        if which not in self._tokens:
            tokenizer, its = seat.gligen.position_net, _tokenized(entries)
            frames = [entities_at(its, i, *size) for i in range(frame_count(its))]
            inputs = [tokenizer.inputs([entity for entity, _ in frame]) for frame in frames]
            inputs = [None if p[0] is None else torch.cat(p) for p in zip(*inputs, strict=True)]
            tokens = tokenizer(*(p if p is None else p.to(device) for p in inputs))
            self._tokens[which] = tokens, _bias(frames, tokenizer.owners, device), entries
        return self._tokens[which][:2]

    def first_conv(self, h: Tensor, x: Tensor, base, groundings: list[list[Grounding]]) -> Tensor:
        """h: the output [B, C, h, w] of the UNet's own first convolution `base` and of what a ControlNet
        adds to it; x: the input [B, 4, h, w]. Returns h with the GLIGENs' convolutions, which see the
        extra channels too, in place of base."""
        if not any(groundings):
            return h
        parts = []
        chunks = zip(h.chunk(len(groundings)), x.chunk(len(groundings)), groundings, strict=True)
        for out, visual, chunk in chunks:
            for g in chunk:
                changed = g.seat.gligen.first_conv(visual, self._extra_channels(g, visual))
                out = out + g.channels.strength * (changed - base(visual))
            parts.append(out)
        return torch.cat(parts)

    def _extra_channels(self, grounding: Grounding, x: Tensor) -> Tensor:
        """[B, k, h, w]"""
        seat, entry, area = grounding.seat, grounding.channels, grounding.area
        which = (id(seat), id(entry), area, x.shape, x.device, x.dtype)
        if which not in self._channels:
            size = tuple(x.shape[-2:])
            frames = [self._placed(entry.at(i), area, x) for i in range(len(entry.frames))]
            extra = torch.cat([seat.gligen.first_conv.extra(frame, size) for frame in frames])
            frame_of_each = torch.arange(len(x), device=x.device).clamp(max=len(extra) - 1)
            self._channels[which] = extra.to(x)[frame_of_each], entry
        return self._channels[which][0]

    def _placed(self, entity: SpatialMap | Inpainting, area: Area | None, x: Tensor):
        """A map is of the area, as boxes are; a picture to be painted into is of the whole image."""
        if isinstance(entity, SpatialMap):
            return SpatialMap(entity.picture.to(x.device))
        known, mask = self.process_latent_in(entity.known), entity.mask
        if area is not None:
            h, w, y, x0 = area
            known, mask = (t[..., y : y + h, x0 : x0 + w] for t in (known, mask))
        size = (x.shape[-1], x.shape[-2])
        known, mask = (common_upscale(t, *size, "bilinear", "disabled") for t in (known, mask))
        return Inpainting(known.to(x.device), mask.round().to(x.device))


def attention_on(device: torch.device):
    """The host's choice of attention. Its last resort, which it takes for a CPU, gives way to PyTorch's,
    which is exact too and faster there."""
    chosen = host_attention.optimized_attention
    resort = device.type == "cpu" and chosen is host_attention.attention_sub_quad
    return host_attention.attention_pytorch if resort else chosen


def _bias(frames: list[list[tuple]], owners: list[int], device) -> Tensor | None:
    """log(s / s_max) for the tokens of an entity of strength s; None where all are alike."""
    strengths = {s for frame in frames for _, s in frame}
    if len(strengths) < 2:
        return None
    strongest = max(strengths)
    rows = []
    for frame in frames:
        slots = [math.log(s / strongest) for _, s in frame]
        rows.append([slots[o] if o < len(slots) else 0.0 for o in owners])
    return torch.tensor(rows, device=device)[:, None]
