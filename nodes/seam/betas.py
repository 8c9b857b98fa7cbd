"""Which β a model call of a run gets."""

from comfy.samplers import Sampler
from torch import Tensor

from ...gligen_ops.schedule import BetaSchedule, step_of

AHEAD = 2  # steps that the host's samplers look ahead at most
OWN_LEVELS = ("dpm_fast_function", "dpm_adaptive_function", "sample_heunpp2")
"""Those of them that choose noise levels of their own between the run's first and last, or go back after they
have looked ahead."""


class Betas:
    """The β of each model call of one run.

    The noise level of a call lies on the device, and to read it makes the device wait until all before is
    done. So, with a sampler that goes step by step, it is read only where β may change: not as long as the
    steps that the sampler has reported are well before the first change, and not once β has come to what it
    stays at.

    sampler: the host's. sigmas: the run's T + 1 noise levels.
    """

    def __init__(self, schedule: BetaSchedule, sampler: Sampler, sigmas: Tensor):
        self.sigmas = sigmas.tolist()
        self.of_step = schedule.betas(max(1, len(self.sigmas) - 1))
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


def goes_step_by_step(sampler: Sampler) -> bool:
    """Whether it is one of the host's that calls the model from the run's first noise level to its last.
    Others may choose levels of their own, or go back."""
    function = getattr(sampler, "sampler_function", None)
    module, name = (str(getattr(function, key, "")) for key in ("__module__", "__name__"))
    return module.partition(".")[0] in ("comfy", "comfy_extras") and name not in OWN_LEVELS
