"""Where the gated layers look during a run: a record of it, and pictures of the record."""

from collections import defaultdict

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gligen_ops.errors import GligenError
from ..gligen_ops.layers.attention_maps import attention_weights, to_grounding_tokens
from ..gligen_ops.model import Block
from ..gligen_ops.schedule import step_of
from .pictures.heat import bar_plot, heat_picture
from .seam import patch
from .seam.parts import Part

GROUPS = ("all", "input", "middle", "output")
Attention = io.Custom("GLIGEN_ATTENTION")


class Record:
    """Of one run: for each group of layers and step, the attention of the positive conditioning's places
    to each entity."""

    def __init__(self):
        self.begin()

    def begin(self):
        self.maps: dict[tuple[str, int, str], list[Tensor]] = defaultdict(list)
        self.gates: dict[str, dict[Block, tuple[Tensor, Tensor]]] = defaultdict(dict)
        self.names: list[str] = []
        return self.look

    def look(self, q, k, heads, mask, part: Part, extra: dict, gates) -> None:
        """Called for each attention of a gated layer."""
        gligen = part.gligen.gligen
        kind, number = extra["block"]
        self.gates[part.gligen.name][Block(kind, number, extra["block_index"])] = gates
        height, width = extra["activations_shape"][-2:]
        slot_of_token = torch.tensor(gligen.position_net.slot_of_token)
        step = step_of(extra["sigmas"].flatten()[0].item(), extra["sample_sigmas"].tolist())
        for row in range(len(part.rows)):
            one = slice(row, row + 1)
            names = names_of(part, row)
            if not names:
                continue
            weights = attention_weights(q[one], k[one], heads, None if mask is None else mask[one])
            paid = to_grounding_tokens(weights, height * width, len(slot_of_token))[0]
            for slot, name in enumerate(names):
                heat = paid[slot_of_token == slot].sum(0).reshape(1, 1, height, width)
                self.maps[kind, step, name].append(heat)
            self.names += [name for name in names if name not in self.names]


def names_of(part: Part, row: int) -> list[str]:
    """Of the entities in a row."""
    tokenizer, kind = part.gligen.gligen.position_net, part.gligen.gligen.kind
    names: list[str] = []
    for entity in part.entities_of(row):
        numbered = f"{entity.noun} {len(names) + 1}" if tokenizer.slots > 1 else kind.name
        names.append(entity.label() or numbered)
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
        return io.NodeOutput(patch.watched(model, record.begin), record)


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
