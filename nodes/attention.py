"""Where the gated layers look during a run: a record of it, and pictures of the record."""

from collections import defaultdict

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gligen_ops.attention_maps import attention_weights, to_grounding_tokens
from ..gligen_ops.entity import Entity, Pose
from ..gligen_ops.errors import GligenError
from ..gligen_ops.model import Block
from ..gligen_ops.schedule import step_of
from . import patch
from .heat import bar_plot, heat_picture

GROUPS = ("all", "input", "middle", "output")
Attention = io.Custom("GLIGEN_ATTENTION")


class Record:
    """Of one run: for each group of layers and step, the attention of the positive conditioning's places
    to each entity."""

    def __init__(self):
        self.begin()

    def begin(self) -> None:
        self.maps: dict[tuple[str, int, str], list[Tensor]] = defaultdict(list)
        self.gates: dict[str, dict[Block, tuple[Tensor, Tensor]]] = defaultdict(dict)
        self.names: list[str] = []

    def look(self, q, k, heads, mask, grid, extra, chunks, gates) -> None:
        """Called by a gated layer for each of its attentions."""
        g = chunks[0]
        kind, number = extra["block"]
        self.gates[g.seat.name][Block(kind, number, extra["block_index"])] = gates
        batch = len(q) // len(chunks)
        tokens = g.seat.gligen.position_net.owners
        sigmas = extra["sample_sigmas"].tolist()
        step = step_of(extra["sigmas"].flatten()[0].item(), sigmas)
        for i, chunk in enumerate(chunks):
            names = _names(chunk)
            if not names:
                continue
            rows = slice(i * batch, (i + 1) * batch)
            weights = attention_weights(
                q[rows], k[rows], heads, None if mask is None else mask[rows]
            )
            paid = to_grounding_tokens(weights, grid[0] * grid[1], len(tokens)).mean(0)
            for slot, name in enumerate(names):
                own = [token for token, owner in enumerate(tokens) if owner == slot]
                heat = paid[own].sum(0).reshape(1, 1, *grid)
                self.maps[kind, step, name].append(heat)
                if name not in self.names:
                    self.names.append(name)


def _names(grounding) -> list[str]:
    names = []
    for entry in grounding.entries:
        entity = entry.frames[0]
        if isinstance(entity, Entity) or isinstance(entity, tuple):
            names.append(getattr(entity, "phrase", "") or f"box {len(names) + 1}")
        elif isinstance(entity, Pose):
            names.append(f"person {len(names) + 1}")
        elif grounding.seat.gligen.position_net.slots == 1:
            names.append(grounding.seat.gligen.kind.name)
    return names


class GligenAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenAttention",
            display_name="GLIGEN Attention",
            category="conditioning/gligen",
            description="Notes during a run where GLIGEN's layers look. Put it between the model and the "
            "sampler, after a GLIGEN β Schedule, and show what it noted with GLIGEN Attention Maps.",
            search_aliases=["gligen", "heat map", "attention"],
            inputs=[io.Model.Input("model", tooltip="The model on its way to the sampler.")],
            outputs=[
                io.Model.Output(tooltip="For the sampler."),
                Attention.Output("attention", tooltip="For GLIGEN Attention Maps."),
            ],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        record = Record()
        return io.NodeOutput(patch.watched(model, record.begin, record.look), record)


class GligenAttentionMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenAttentionMaps",
            display_name="GLIGEN Attention Maps",
            category="conditioning/gligen",
            description="Shows what GLIGEN Attention noted: for each grounded thing where the layers look "
            "at it, over the picture, and how far the gates of each layer are open.",
            search_aliases=["gligen", "heat map", "attention", "gates"],
            inputs=[
                Attention.Input("attention", tooltip="From GLIGEN Attention."),
                io.Image.Input("image", tooltip="The picture that the run made."),
                io.Combo.Input("layers", options=list(GROUPS), tooltip="Which part of the UNet."),
                io.Int.Input(
                    "first_step", default=0, min=0, max=10000, tooltip="First step shown, from 0."
                ),
                io.Int.Input(
                    "last_step", default=10000, min=0, max=10000, tooltip="Last step shown."
                ),
            ],
            outputs=[
                io.Image.Output("maps", tooltip="One picture for each grounded thing."),
                io.Image.Output("gates", tooltip="tanh(γ) of each layer."),
            ],
        )

    @classmethod
    def execute(cls, attention, image, layers, first_step, last_step) -> io.NodeOutput:
        if not attention.maps:
            raise GligenError(
                "attention: nothing was noted. Run the sampler with the model that GLIGEN Attention gives, "
                "with GLIGEN boxes in the prompt and tau above 0."
            )
        steps = range(first_step, last_step + 1)
        pictures = []
        for name in attention.names:
            heat = [
                h
                for (kind, step, whose), maps in attention.maps.items()
                for h in maps
                if whose == name and step in steps and layers in ("all", kind)
            ]
            if heat:
                pictures.append(heat_picture(image[0], heat, name))
        if not pictures:
            steps = sorted({step for _, step, _ in attention.maps})
            raise GligenError(
                f"first_step, last_step: GLIGEN was on in the steps {steps[0]} to {steps[-1]} of this run. "
                "Choose some of those."
            )
        return io.NodeOutput(torch.stack(pictures), bar_plot(attention.gates)[None])
