"""Grounding for less than its arithmetic: what the gated layers add to the visual tokens changes slowly from
step to step, and may be kept for a few of them. Off unless asked for, as the picture is then another.
"""

from collections.abc import Callable

from torch import Tensor


class Residuals:
    """every: steps for which a residual holds, its own among them; 1 keeps none."""

    def __init__(self, every: int):
        self.every = every
        self._kept: dict[tuple, tuple[int, float, Tensor]] = {}

    def fuse(
        self, v: Tensor, where: tuple, step: int, beta: float, fuse: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """v: visual tokens; where: the block, and for which conditionings; fuse: grounds v at this β.
        Where the residual of an earlier step still holds it is added, in proportion to β."""
        if self.every == 1:
            return fuse(v)
        made, its_beta, residual = self._kept.get(where, (step - self.every, 0.0, None))
        if step - made < self.every and residual.shape == v.shape:
            return v + residual * (beta / its_beta)
        grounded = fuse(v)
        self._kept[where] = step, beta, grounded - v
        return grounded
