"""Grounding for less than its arithmetic: what the gated layers add to the visual tokens changes slowly
from one model call to the next, and may be kept for a few of them. Off unless asked for: the picture is
nearly, not exactly, the same.
"""

from collections.abc import Callable

from torch import Tensor


class Residuals:
    """every: how many model calls share a residual; 1 keeps none."""

    def __init__(self, every: int):
        self.every = every
        self._kept: dict[tuple, list] = {}

    def fuse(self, v: Tensor, where: tuple, beta: float, fuse: Callable[[Tensor], Tensor]):
        """v: visual tokens [B, N, C]; where: the block, and for which conditionings; fuse: grounds v at
        this β. A residual that is kept is added in proportion to β."""
        if self.every == 1:
            return fuse(v)
        kept = self._kept.get(where)
        if kept is None or kept.uses == self.every or kept.residual.shape != v.shape:
            grounded = fuse(v)
            self._kept[where] = Kept(grounded - v, beta)
            return grounded
        kept.uses += 1
        return v + kept.residual * (beta / kept.beta)


class Kept:
    def __init__(self, residual: Tensor, beta: float):
        self.residual, self.beta, self.uses = residual, beta, 1
