"""A run that is cut into pieces is grounded as the whole, whoever cuts it."""

import pytest
import torch
from gligen_pack.gligen_ops.schedule import BetaSchedule
from rig import WIDE, relative

STEPS = 20
BOX = ("a red ball", 0.0, 0.25, 0.5, 0.5)


def in_pieces(rig, model, ends, sampler="euler", scheduler="normal", cfg=4.0):
    """By the host's KSamplerAdvanced, one node a piece. ends: the steps that the pieces end at."""
    import nodes as host

    latent = {"samples": torch.zeros(1, 4, *WIDE)}
    begin = 0
    for end in ends:
        with torch.inference_mode():
            (latent,) = host.KSamplerAdvanced().sample(
                model, "disable" if begin else "enable", 5, STEPS, cfg, sampler, scheduler,
                rig.text_box(*BOX), rig.negative, latent, begin, end,
                "disable" if end == STEPS else "enable",
            )  # fmt: skip
        begin = end
    return latent["samples"]


@pytest.mark.parametrize("tau", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("cut", [1, 5, 6, 7, 13, 19])
def test_two_halves_are_the_whole(rig, cut, tau):
    model = rig.schedule(tau=tau)
    assert relative(in_pieces(rig, model, [cut, STEPS]), in_pieces(rig, model, [STEPS])) < 1e-5


@pytest.mark.parametrize("scheduler", ["normal", "simple", "sgm_uniform", "ddim_uniform"])
def test_a_step_at_a_time_is_the_whole(rig, scheduler):
    model, every = rig.schedule(tau=0.3), range(1, STEPS + 1)
    whole = in_pieces(rig, model, [STEPS], scheduler=scheduler)
    assert relative(in_pieces(rig, model, every, scheduler=scheduler), whole) < 1e-5
    assert relative(in_pieces(rig, rig.model, [STEPS], scheduler=scheduler), whole) > 1e-3


@pytest.mark.parametrize("scheduler", ["normal", "karras", "exponential", "beta"])
@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_by_noise_level_every_cut_is_the_whole_with_any_scheduler(rig, scheduler, decay):
    model = rig.schedule(tau=0.3, decay=decay, count="noise level")
    whole = in_pieces(rig, model, [STEPS], scheduler=scheduler)
    for ends in ([4, STEPS], [7, 8, STEPS], [STEPS - 1, STEPS]):
        assert relative(in_pieces(rig, model, ends, scheduler=scheduler), whole) < 1e-5


def test_by_steps_each_piece_is_a_run_of_its_own(rig):
    model = rig.schedule(tau=0.3, count="steps")
    whole = in_pieces(rig, rig.schedule(tau=0.3), [STEPS])
    assert relative(in_pieces(rig, model, [10, STEPS]), whole) > 1e-3


@pytest.mark.parametrize("count", ["automatic", "noise level"])
def test_tau_1_and_0_hold_in_every_piece(rig, count):
    plain = in_pieces(rig, rig.model, [STEPS])
    on = in_pieces(rig, rig.schedule(tau=1.0, count=count), [6, 19, STEPS])
    assert relative(on, plain) < 1e-5  # a plain sampler grounds in every step
    off = in_pieces(rig, rig.schedule(tau=0.0, count=count), [6, STEPS])
    assert torch.equal(off, in_pieces(rig, rig.schedule(strength=0.0), [6, STEPS]))


def test_less_denoise_is_a_whole_run(rig):
    """It begins at less noise, but adds that: 2 of its 4 steps are half of them, though none of them lies in
    the first half of the way from the most noise to none."""
    positive = rig.text_box(*BOX)
    half = rig.sample(rig.schedule(tau=0.5), positive, steps=4, denoise=0.4)
    assert relative(rig.sample(rig.schedule(tau=0.0), positive, steps=4, denoise=0.4), half) > 1e-3
    by_level = rig.schedule(tau=0.5, count="noise level")
    plain = rig.plain(steps=4, denoise=0.4)
    assert torch.equal(rig.sample(by_level, positive, steps=4, denoise=0.4), plain)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (BetaSchedule(0.5), [1, 1, 0, 0]),
        (BetaSchedule(0.5, 0.5), [1, 1, 0.5, 0]),
        (BetaSchedule(0.0, 1.0, strength=2.0), [1.5, 1.0, 0.5, 0]),
        (BetaSchedule(1.0), [1, 1, 1, 1]),
        (BetaSchedule(curve=lambda place: place), [0, 0.25, 0.5, 0.75]),
    ],
)
def test_beta_by_places(schedule, expected):
    places = [0, 0.25, 0.5, 0.75, 1]
    assert schedule.between(places) == expected
    assert schedule.between(places[2:]) == expected[2:]
