"""When the gated layers are on: GLIGEN (arXiv 2301.07093), "Scheduled Sampling in Inference".

β is 1 for the first τ of the steps, may then fall linearly, and is 0 for the rest.
Original: `alpha_generator` in gligen_inference.py of gligen/GLIGEN.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .errors import GligenError

_ROUNDING = 1e-6
_FINE = 100
"""Into how many parts a curve is cut to find its peak."""


@dataclass(frozen=True)
class BetaSchedule:
    """β over a run.

    tau, decay: shares of a run's steps, 0..1, their sum at most 1. strength multiplies β.
    curve: maps the place in the run, 0 at the first step and 1 at the last, to β; it replaces tau
    and decay.

    However few the steps, what is above 0 somewhere grounds at least one of them. (The original rounds
    a share of less than a step down to none.)
    """

    tau: float = 1.0
    decay: float = 0.0
    strength: float = 1.0
    curve: Callable[[float], float] | None = None

    def __post_init__(self):
        for name in ("tau", "decay"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise GligenError(f"{name}: it is {share}; expected a share of the steps, 0 to 1.")
        if not 0 <= self.strength < math.inf:
            raise GligenError(f"strength: it is {self.strength}; expected a number from 0 up.")
        if self.tau + self.decay > 1 + _ROUNDING:
            raise GligenError(
                f"tau ({self.tau:g}) and decay ({self.decay:g}) are shares of the same run: together "
                "they can be at most 1. Lower one of them."
            )

    def betas(self, steps: int) -> list[float]:
        """β of each of a run's steps."""
        betas = self._shares(steps) if self.curve is None else self._along(self.curve, steps)
        return self._checked(betas)

    def between(self, places: Sequence[float]) -> list[float]:
        """β of each of the steps between these places of a run, of which 0 is the begin and 1 the end:
        also of steps that are only a piece of it."""
        return self._checked([self._at(*ends) for ends in pairwise(places)])

    def _checked(self, betas: list[float]) -> list[float]:
        if not all(map(math.isfinite, betas)):
            raise GligenError("curve: somewhere it is no number. Draw it anew.")
        return [self.strength * beta for beta in betas]

    def _at(self, begin: float, end: float) -> float:
        if self.curve is not None:
            return self.curve(begin)
        if begin < self.tau or self.tau >= 1:
            return 1.0
        return max(0.0, 1 - (end - self.tau) / self.decay) if self.decay else 0.0

    def _shares(self, steps: int) -> list[float]:
        on, falling = (int(share * steps + _ROUNDING) for share in (self.tau, self.decay))
        if self.tau > 0:
            on = max(on, 1)
        elif self.decay > 0:
            falling = max(falling, 2)  # of which the first is at half
        ramp = [(falling - 1 - i) / falling for i in range(falling)]
        return ([1.0] * on + ramp + [0.0] * steps)[:steps]

    @staticmethod
    def _along(curve: Callable[[float], float], steps: int) -> list[float]:
        last = max(steps - 1, 1)
        betas = [curve(i / last) for i in range(steps)]
        if not any(betas):  # its peak may lie between the steps
            peak = max(range(_FINE + 1), key=lambda i: curve(i / _FINE))
            betas[round(peak / _FINE * (steps - 1))] = curve(peak / _FINE)
        return betas


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """Which step of a run a model call at noise level `sigma` belongs to.

    sigmas: the run's T + 1 levels, falling (or rising, where noise is added). Step i reaches from
    sigmas[i] up to, not including, sigmas[i + 1]; a level outside of the run belongs to its nearest
    end. So every model call of a step finds it, also between the levels.
    """
    starts = sigmas[1:-1]
    if len(sigmas) > 1 and sigmas[0] > sigmas[-1]:
        sigma, starts = -sigma, [-s for s in starts]
    # The first start that sigma has not reached yet ends the step; equality up to rounding counts.
    return bisect_left(starts, sigma + _ROUNDING * max(1.0, abs(sigma)))
