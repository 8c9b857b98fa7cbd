"""What every tokenizer of grounding inputs has: GLIGEN (arXiv 2301.07093), section 3.1.

Original: each `PositionNet` in ldm/modules/diffusionmodules of gligen/GLIGEN.
"""

from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from ..entities import Entity
from ..kinds import KINDS, Kind
from ..shapes import Shapes


class Tokenizer(nn.Module):
    """A `position_net`. Its `forward` takes what `inputs` gives, and makes tokens [B, G, D].

    kinds: the kinds of GLIGEN that have it. slots: how many entities it takes. tensor_names: the first
    parts of its tensors' names. slot_of_token: of each of the G tokens. side: of the maps that it takes,
    in pixels; None where it takes none.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ()
    slots: int
    tensor_names: ClassVar[frozenset[str]]
    slot_of_token: list[int]
    side: int | None = None

    def __init_subclass__(cls) -> None:
        cls.kinds = tuple(replace(kind, tokenizer=cls) for kind in cls.__dict__.get("kinds", ()))
        KINDS.extend(cls.kinds)

    @classmethod
    def of(cls, shapes: Shapes, token_width: int, operations=nn) -> "Tokenizer":
        """The one that has tensors of these shapes."""
        raise NotImplementedError

    def inputs(self, entities: list[Entity]) -> tuple[Tensor | None, ...]:
        """What `forward` takes, for at most `slots` entities; none: the null grounding."""
        raise NotImplementedError
