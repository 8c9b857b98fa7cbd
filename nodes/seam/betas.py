"""Which β a model call of a run gets."""

from bisect import bisect_left

from comfy.samplers import Sampler
from torch import Tensor

from ...gligen_ops.schedule import BetaSchedule, step_of

COUNTS = ("automatic", "steps", "noise level")
"""What the shares of a schedule are of: the steps of a run, or the way from the most noise to none. A whole
run goes by its steps, as the authors' does; a piece of one cannot, and goes by noise level."""
PARTS = 100_000
"""Into how many the way is cut to find the place of a noise level."""
AHEAD = 2  # steps that the host's samplers look ahead at most
ROUNDING = 1e-5
OWN_LEVELS = ("dpm_fast_function", "dpm_adaptive_function", "sample_heunpp2")
"""Those of them that choose noise levels of their own between the run's first and last, or go back after they
have looked ahead."""


class Betas:
    """The β of each model call of one run.

    The noise level of a call lies on the device, and to read it makes the device wait until all before is
    done. So, with a sampler that goes step by step, it is read only where β may change: not as long as the
    steps that the sampler has reported are well before the first change, and not once β has come to what it
    stays at.

    sampler: the host's. sigmas: the run's T + 1 noise levels. places: of those on the way from the most noise
    to none; [] where steps are counted.
    """

    def __init__(
        self, schedule: BetaSchedule, sampler: Sampler, sigmas: Tensor, places: list[float]
    ):
        self.sigmas = sigmas.tolist()
        steps = max(1, len(self.sigmas) - 1)
        self.of_step = schedule.between(places) if places else schedule.betas(steps)
        changes = [i for i in range(1, len(self.of_step)) if self.of_step[i] != self.of_step[i - 1]]
        self.first_change, self.last_change = (changes[0], changes[-1]) if changes else (0, 0)
        self.step = 0
        self.reported: int | None = None
        self.seen: Tensor | None = None
        self.by_step = goes_step_by_step(sampler)

    def report(self, step: int) -> None:
        """The sampler has made the first call of this step."""
        self.reported = step

    def of_call(self, timestep: Tensor) -> float:
        """timestep: the noise level of the call, one value for each picture."""
        if timestep is not self.seen and not self._is_known():
            self.step = step_of(timestep.flatten()[0].item(), self.sigmas)
        self.seen = timestep
        return self.of_step[self.step]

    def _is_known(self) -> bool:
        """Whether β of the next call can be told without its noise level."""
        if self.last_change == 0:
            return True
        early = self.reported is not None and self.reported + AHEAD < self.first_change
        return self.by_step and (early or self.step >= self.last_change)


def places_of(sigmas: Tensor, noise: Tensor, sampling, count: str) -> list[float]:
    """The places of a run's noise levels, 0 the most noise and 1 none, where its β goes by them; [] where
    the run counts its steps. noise: what it begins with. sampling: the host's model_sampling. count: of
    `COUNTS`."""
    if count == "steps" or (count == "automatic" and not is_piece(sigmas, noise, sampling)):
        return []

    def falls(part: int) -> float:
        return -sampling.percent_to_sigma(part / PARTS)

    parts = range(PARTS + 1)
    levels = [-sigma * (1 + ROUNDING) for sigma in sigmas.tolist()]
    return [min(bisect_left(parts, level, key=falls), PARTS) / PARTS for level in levels]


def is_piece(sigmas: Tensor, noise: Tensor, sampling) -> bool:
    """Whether a run leaves noise to another, or goes on where another has stopped: it begins below the most
    noise and adds none. With less denoise a run begins there too, but adds its noise."""
    if len(sigmas) < 2 or sigmas[0] <= sigmas[-1]:
        return False
    goes_on = sigmas[0] < sampling.sigma_max * (1 - ROUNDING) and not noise.any()
    return bool(goes_on or sigmas[-1] > 0)


def goes_step_by_step(sampler: Sampler) -> bool:
    """Whether it is one of the host's that calls the model from the run's first noise level to its last.
    Others may choose levels of their own, or go back."""
    function = getattr(sampler, "sampler_function", None)
    module, name = (str(getattr(function, key, "")) for key in ("__module__", "__name__"))
    return module.partition(".")[0] in ("comfy", "comfy_extras") and name not in OWN_LEVELS
