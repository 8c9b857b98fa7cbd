"""The loop around any training: what it optimises, how fast, what it leaves, how it goes on."""

import pytest
import torch
from gligen_pack.gligen_ops.learning.fit import fit

STEPS = 210  # the state is kept each 200


class Point(torch.nn.Module):
    """Two weights that fall as fast as they may: Adam moves each by its learning rate."""

    def __init__(self):
        super().__init__()
        self.fast, self.slow = (torch.nn.Parameter(torch.zeros(3)) for _ in "ab")

    def groups(self):
        return [{"params": [self.slow], "lr": 1e-3}, {"params": [self.fast], "lr": 1e-2}]

    def values(self):
        return torch.stack([self.slow.detach(), self.fast.detach()]).clone()


def trained(file, steps=STEPS, stop=None, **kwargs):
    """The point, its values after each step, and the random numbers that its loss was given."""
    point, seen, drawn = Point(), [], []

    def loss(step):
        drawn.append((step, torch.rand(()).item()))
        return sum((1 + drawn[-1][1] / 9) * p.sum() for p in point.parameters())

    def every(step):
        assert step == len(seen) + drawn[0][0]
        seen.append(point.values())
        if step == stop:
            raise KeyboardInterrupt

    seconds = None
    try:
        seconds = fit(file, point, point.groups(), loss, steps, every, **kwargs)
    except KeyboardInterrupt:
        assert stop is not None
    return point, torch.stack(seen), drawn, seconds


def test_each_group_learns_at_its_own_rate_which_rises_and_then_falls_to_nothing(tmp_path):
    _, seen, *_ = trained(tmp_path / "g.pt", 100)
    moved = (seen[1:] - seen[:-1]).abs().mean(-1)  # [steps, groups]
    for group, rate in enumerate((1e-3, 1e-2)):
        assert seen[0, group].abs().mean().item() == pytest.approx(rate / 20, rel=0.05)
        assert moved[:, group].max().item() == pytest.approx(rate, rel=0.1)
        assert 5 <= moved[:, group].argmax() <= 20  # of 100, and a little behind the rate
        assert moved[-1, group] < 0.01 * rate
    assert (seen[-1] < seen[0]).all()


def test_what_is_left_is_the_moving_average_of_the_weights(tmp_path):
    """a ← a + (1 − min(ema, n / (n + 10))) (w − a) after each step n: slow to forget, quick at first."""
    for ema in (0.999, 0.5):
        point, seen, *_ = trained(tmp_path / f"{ema}.pt", 60, ema=ema)
        average = torch.zeros(2, 3)
        for step, weights in enumerate(seen):
            average += (1 - min(ema, step / (step + 10))) * (weights - average)
        torch.testing.assert_close(point.values(), average)
        assert not torch.allclose(point.values(), seen[-1])


def test_a_steps_randomness_is_its_own_and_the_same_in_each_training(tmp_path):
    *_, drawn, _ = trained(tmp_path / "a.pt", 30)
    torch.rand(7)
    *_, again, _ = trained(tmp_path / "b.pt", 30)
    assert drawn == again
    assert [step for step, _ in drawn] == [*range(30)]
    assert len({value for _, value in drawn}) == 30


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    whole, seen, drawn, seconds = trained(tmp_path / "whole.pt")
    _, before, *_ = trained(tmp_path / "parts.pt", stop=205)
    assert torch.equal(before, seen[:206])
    resumed, after, rest, more = trained(tmp_path / "parts.pt")
    assert rest == drawn[200:]
    assert torch.equal(after, seen[200:])
    assert torch.equal(resumed.values(), whole.values())
    assert seconds > 0 and more > 0


def test_a_training_that_has_ended_stays_as_it_is(tmp_path):
    whole, *_, seconds = trained(tmp_path / "g.pt", 20)
    point = Point()
    again = fit(tmp_path / "g.pt", point, point.groups(), None, 20)
    assert torch.equal(point.values(), whole.values())
    assert again == seconds


def test_one_wild_example_moves_what_is_learned_no_more_than_any_other(tmp_path):
    """The gradient is clipped: without, Adam would hold its size against all that come after."""

    def end(wild):
        point = Point()
        fit(
            tmp_path / f"{wild}.pt", point, point.groups(),
            lambda step: (wild if step == 5 else 1.0) * sum(p.sum() for p in point.parameters()), 30,
        )  # fmt: skip
        return point.values()

    assert torch.allclose(end(1e6), end(1.0), rtol=0.1)


def test_weights_shrink_but_for_groups_that_ask_not_to(tmp_path):
    kept, shrunk = (torch.nn.Parameter(torch.ones(1)) for _ in "ab")
    module = torch.nn.ParameterList([kept, shrunk])
    groups = [
        {"params": [shrunk], "lr": 0.1},
        {"params": [kept], "lr": 0.1, "weight_decay": 0.0},
    ]
    fit(tmp_path / "g.pt", module, groups, lambda step: 0.0 * (kept + shrunk).sum(), 50)
    assert kept.item() == 1
    assert 0.99 < shrunk.item() < 0.9999
