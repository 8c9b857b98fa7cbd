"""What every tokenizer of grounding inputs has: GLIGEN (arXiv 2301.07093), section 3.1.

Original: each `PositionNet` in ldm/modules/diffusionmodules of gligen/GLIGEN.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from ..entities import Entity
from ..kinds import KINDS, Kind
from ..shapes import Axes


class Tokenizer(nn.Module):
    """A `position_net`. Its `forward` takes what `inputs` gives, and makes tokens [B, G, D].

    kinds: the kinds of GLIGEN that have it. sizes: the axes of those of its tensors that decide what its
    class is called with, `token_width` (D) among them. slots: how many entities it takes. slot_of_token: of
    each of the G tokens. side: of the maps that it takes, in pixels; None where it takes none.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ()
    sizes: ClassVar[Mapping[str, Axes]]
    slots: int
    slot_of_token: list[int]
    side: int | None = None

    def __init_subclass__(cls) -> None:
        cls.kinds = tuple(replace(kind, tokenizer=cls) for kind in cls.__dict__.get("kinds", ()))
        KINDS.extend(cls.kinds)

    def inputs(self, entities: list[Entity]) -> tuple[Tensor | None, ...]:
        """What `forward` takes, for at most `slots` entities; none: the null grounding."""
        raise NotImplementedError
