"""What one GLIGEN adds to a model call at one strength: its tokens, and of each block its keys."""

import math
from functools import cached_property

import torch
from torch import Tensor

from ...gligen_ops.entities import Entity
from ...gligen_ops.layers.gated_self_attention import GroundingKeys
from .gligens import LoadedGligen
from .groundings import Grounding
from .tags import Row

Prepared = tuple[torch.nn.Module, GroundingKeys, tuple[Tensor, Tensor]]
"""A gated layer, its keys of each row, and its gates."""


class Grounder:
    """What one GLIGEN adds to a model call at one strength.

    groundings: of each row of the call, by number, that this GLIGEN grounds. rows: all of the call's.
    layers: what is prepared of each block, made where it is first needed.
    """

    def __init__(
        self,
        gligen: LoadedGligen,
        strength: float,
        groundings: dict[int, Grounding],
        rows: tuple[Row, ...],
        size: tuple[int, int],
        device: torch.device,
    ):
        self.gligen, self.strength = gligen, strength
        self.rows, self.count = list(groundings), len(rows)
        self.layers: dict[tuple, Prepared] = {}
        wanted = [
            (g, rows[i]._replace(cond=0)) if g.entries else None for i, g in groundings.items()
        ]
        self._unique = list(dict.fromkeys(wanted))
        self._indices = [self._unique.index(one) for one in wanted]
        self.size, self.device = size, device
        self._index, self._rows = (
            torch.tensor(i, device=device) for i in (self._indices, self.rows)
        )

    @cached_property
    def _found(self) -> list[list[tuple[Entity, float]]]:
        """Entities and strengths of each of the unique rows."""
        return [one[0].entities(one[1], self.size) if one else [] for one in self._unique]

    @cached_property
    def _tokens(self) -> Tensor:
        """[unique, G, D]"""
        entities = [[entity for entity, _ in found] for found in self._found]
        return torch.cat([self.gligen.tokens(one, self.device) for one in entities])

    @cached_property
    def _bias(self) -> Tensor | None:
        """log(s / s_max) for the tokens of an entity of strength s, [unique, 1, G]; None where all are alike.
        So a weaker entity is attended to less, as if it were there only so many times."""
        if all(strength == self.strength for found in self._found for _, strength in found):
            return None
        bias = []
        for found in self._found:
            slots = [math.log(strength / self.strength) for _, strength in found]
            tokens = self.gligen.net.position_net.slot_of_token
            bias.append([slots[slot] if slot < len(slots) else 0.0 for slot in tokens])
        return torch.tensor(bias, device=self.device)[:, None]

    def entities_of(self, row: int) -> list[Entity]:
        """Of one of the grounded rows, slot by slot."""
        return [entity for entity, _ in self._found[self._indices[row]]]

    def prepared(self, v: Tensor, extra: dict) -> Prepared:
        """Gated layer, keys and gates for the block that a patch was called in, with visual tokens v."""
        block = (*extra["block"], extra["block_index"], v.dtype)
        if block not in self.layers:
            layer = self.gligen.layer_of(extra, v.shape[-1])
            key, value, query, _ = layer.keys(self._tokens.to(v.dtype))
            bias = None if self._bias is None else self._bias.to(v.dtype)
            keys = (None if t is None else t[self._index] for t in (key, value, query, bias))
            gates = tuple(gate.to(v.device) for gate in layer.gates())
            self.layers[block] = layer, GroundingKeys(*keys), gates
        return self.layers[block]

    def rows_of(self, v: Tensor) -> Tensor:
        """Of visual tokens [B, N, C] those of the grounded rows."""
        return v if len(self.rows) == self.count else v[self._rows]

    def put_back(self, v: Tensor, grounded: Tensor) -> Tensor:
        """The visual tokens with the grounded rows in place of theirs."""
        whole = grounded is v or len(self.rows) == self.count
        return grounded if whole else v.index_copy(0, self._rows, grounded)
