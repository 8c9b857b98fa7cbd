"""A record of where the gated layers look during a run."""

from collections import defaultdict
from collections.abc import Container

import torch
from torch import Tensor

from ...gligen_ops.layers.attention_maps import attention_weights, to_grounding_tokens
from ...gligen_ops.model import Block
from ...gligen_ops.schedule import step_of
from .grounders import Grounder


class Record:
    """The attention of one run.

    maps: what the places of the positive conditioning pay to an entity, [1, 1, h, w] each, by side of the
    UNet, step and name of the entity. gates: tanh(γ) of each layer, by the name of the GLIGEN. names: of the
    entities, in the order in which they came.
    """

    def __init__(self):
        self.begin()

    def __deepcopy__(self, memo) -> "Record":
        return self  # the host copies what a MODEL carries for each run

    def begin(self) -> None:
        """Forget the run before."""
        self.maps: dict[tuple[str, int, str], list[Tensor]] = defaultdict(list)
        self.gates: dict[str, dict[Block, tuple[Tensor, Tensor]]] = defaultdict(dict)
        self.names: list[str] = []

    def add(
        self,
        q: Tensor,
        k: Tensor,
        heads: int,
        mask: Tensor | None,
        grounder: Grounder,
        extra: dict,
        gates: tuple[Tensor, Tensor],
    ) -> None:
        """An attention of a gated layer: q [B, N, C], k [B, M, C], mask [B, 1, M]."""
        side, number = extra["block"]
        self.gates[grounder.gligen.name][Block(side, number, extra["block_index"])] = gates
        height, width = extra["activations_shape"][-2:]
        slot_of_token = torch.tensor(grounder.gligen.net.position_net.slot_of_token)
        step = step_of(extra["sigmas"].flatten()[0].item(), extra["sample_sigmas"].tolist())
        for row in range(len(grounder.rows)):
            one = slice(row, row + 1)
            names = names_of(grounder, row)
            if not names:
                continue
            weights = attention_weights(q[one], k[one], heads, None if mask is None else mask[one])
            paid = to_grounding_tokens(weights, height * width, len(slot_of_token))[0]
            for slot, name in enumerate(names):
                heat = paid[slot_of_token == slot].sum(0).reshape(1, 1, height, width)
                self.maps[side, step, name].append(heat)
            self.names += [name for name in names if name not in self.names]

    def maps_of(self, name: str, steps: Container[int], layers: str) -> list[Tensor]:
        """Those of an entity in some steps. layers: a side of the UNet, or "all"."""
        return [
            one
            for (side, step, entity), maps in self.maps.items()
            for one in maps
            if entity == name and step in steps and layers in ("all", side)
        ]


def names_of(grounder: Grounder, row: int) -> list[str]:
    """Of the entities in a row."""
    net = grounder.gligen.net
    names: list[str] = []
    for entity in grounder.entities_of(row):
        numbered = (
            f"{entity.noun} {len(names) + 1}" if net.position_net.slots > 1 else net.kind.name
        )
        names.append(entity.label() or numbered)
    return names
