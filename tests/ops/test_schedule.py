"""β of each step, and which step a noise level belongs to."""

import pytest
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.schedule import BetaSchedule, step_of

SIGMAS = [14.6, 8.0, 4.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20, 50])
@pytest.mark.parametrize("tau", [0.1, 0.3, 0.35, 0.7, 1.0])
def test_tau_is_the_authors_number_of_steps_fully_on_and_at_least_one(tau, steps):
    """Their number is int(tau * steps); of 0.7 * 10 it is 7, which floats make 6.99…"""
    on = max(1, int(tau * steps + 1e-6))
    assert BetaSchedule(tau).betas(steps) == [1.0] * on + [0.0] * (steps - on)


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize(
    "off", [BetaSchedule(0.0), BetaSchedule(strength=0.0), BetaSchedule(curve=lambda _: 0.0)]
)
def test_what_is_0_grounds_no_step(off, steps):
    assert off.betas(steps) == [0.0] * steps


@pytest.mark.parametrize("tau, decay", [(0.3, 0.0), (0.01, 0.0), (0.01, 0.01)])
def test_a_share_of_less_than_a_step_is_one_step(tau, decay):
    assert BetaSchedule(tau, decay).betas(3) == [1, 0, 0]


@pytest.mark.parametrize(
    "tau, decay, steps, expected",
    [
        (0.01, 0.67, 3, [1, 0.5, 0]),
        (0.1, 0.9, 1, [1]),
        (0.0, 0.3, 3, [0.5, 0, 0]),
        (0.0, 0.4, 3, [0.5, 0, 0]),
        (0.0, 1.0, 1, [0.5]),
        (0.0, 0.75, 4, [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_decay_over_few_steps_still_falls_and_still_grounds(tau, decay, steps, expected):
    assert BetaSchedule(tau, decay).betas(steps) == pytest.approx(expected)


@pytest.mark.parametrize(
    "peak, steps, expected", [(0.4, 2, [1, 0]), (0.6, 2, [0, 1]), (0.6, 1, [1])]
)
def test_a_curve_whose_peak_lies_between_the_steps_grounds_the_nearest(peak, steps, expected):
    curve = BetaSchedule(curve=lambda x: max(0.0, 1 - 10 * abs(x - peak)))
    assert curve.betas(steps) == pytest.approx(expected)


@pytest.mark.parametrize("share, steps, on", [(0.29, 100, 29), (0.57, 100, 57), (0.3, 9, 2)])
def test_a_share_of_a_run_is_rounded_down_but_for_the_rounding_of_its_product(share, steps, on):
    """0.29 · 100 is 28.999999999999996."""
    assert BetaSchedule(share).betas(steps) == [1.0] * on + [0.0] * (steps - on)
    falling = BetaSchedule(0, share).betas(steps)
    assert falling == pytest.approx([1 - (i + 1) / on for i in range(on)] + [0] * (steps - on))


def test_decay_falls_linearly_from_below_one_to_zero():
    assert BetaSchedule(0.2, 0.4).betas(10) == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0]


def test_strength_multiplies_every_step():
    assert BetaSchedule(0.5, strength=0.6).betas(4) == [0.6, 0.6, 0, 0]
    assert BetaSchedule(0.25, 0.5, strength=3).betas(8) == [3, 3, 2.25, 1.5, 0.75, 0, 0, 0]
    assert BetaSchedule(strength=0.5, curve=lambda x: x).betas(3) == [0, 0.25, 0.5]


def test_curve_takes_the_place_of_the_fractions():
    betas = BetaSchedule(0.3, 0, 2.0, curve=lambda x: 1 - x).betas(5)
    assert betas == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert BetaSchedule(curve=lambda x: 1 - x).betas(1) == [1.0]


@pytest.mark.parametrize("steps", [2, 3, 25])
def test_a_curve_is_asked_from_0_at_the_first_step_to_1_at_the_last(steps):
    places = BetaSchedule(0, curve=lambda x: x).betas(steps)
    assert places == [i / max(steps - 1, 1) for i in range(steps)]


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_every_step_of_a_run_has_its_beta(tau):
    for steps in range(8):
        assert len(BetaSchedule(tau, 1 - tau).betas(steps)) == steps


def test_shares_that_fill_the_run_up_to_rounding_are_taken():
    tau, decay = 0.7000000000000002, 0.3
    assert tau + decay > 1
    assert BetaSchedule(tau, decay).betas(10) == pytest.approx([1] * 7 + [2 / 3, 1 / 3, 0])


def test_shares_above_the_whole_run_are_refused():
    with pytest.raises(GligenError, match="tau .0.8. and decay .0.4."):
        BetaSchedule(0.8, 0.4)
    with pytest.raises(GligenError, match="tau .1. and decay .0.001."):
        BetaSchedule(1, 0.001)


def test_a_level_of_the_run_is_its_own_step():
    assert [step_of(s, SIGMAS) for s in SIGMAS[:-1]] == [0, 1, 2, 3, 4]


def test_a_level_between_two_belongs_to_the_step_that_crosses_it():
    assert [step_of(s, SIGMAS) for s in (9.0, 5.0, 3.0, 1.5, 0.1)] == [0, 1, 2, 3, 4]


def test_levels_outside_of_the_run_belong_to_its_ends():
    assert step_of(20.0, SIGMAS) == 0
    assert step_of(0.0, SIGMAS) == 4


@pytest.mark.parametrize("scale", [1e-2, 1, 1000])
def test_a_step_begins_at_its_level_and_not_before(scale):
    """Up to the rounding of float32, at the noise levels of any model."""
    sigmas = [s * scale for s in SIGMAS]
    for i, sigma in enumerate(sigmas[1:-1], start=1):
        at = [sigma * (1 + e) for e in (1e-7, 0, -1e-7)]
        assert [step_of(s, sigmas) for s in at] == [i, i, i]
        assert [step_of(s, sigmas) for s in (sigma * 1.001, sigma * 0.999)] == [i - 1, i]


@pytest.mark.parametrize("scale", [1e-2, 1, 1000])
def test_a_rising_run_that_adds_noise_counts_from_its_start(scale):
    sigmas = [s * scale for s in SIGMAS[::-1]]
    assert [step_of(s, sigmas) for s in sigmas] == [0, 1, 2, 3, 4, 4]
    for i, sigma in enumerate(sigmas[1:-1], start=1):
        assert [step_of(sigma * (1 + e), sigmas) for e in (-1e-7, 1e-7)] == [i, i]
        assert [step_of(sigma * r, sigmas) for r in (0.999, 1.001)] == [i - 1, i]


def test_levels_near_nothing_are_told_apart_by_no_less_than_a_millionth():
    assert step_of(5e-7, [1.0, 0.0, 0.0]) == 1
    assert step_of(5e-3, [1.0, 0.0, 0.0]) == 0


@pytest.mark.parametrize("sigmas", [[14.6, 0.0], [0.0, 14.6], [1.0], []])
def test_a_run_of_one_step_or_none_is_all_step_0(sigmas):
    assert [step_of(s, sigmas) for s in (20.0, 14.6, 3.0, 0.0)] == [0, 0, 0, 0]
