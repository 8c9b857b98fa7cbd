"""The benchmark on a small model: that it runs, and what it counts. Its timings are nobody's test."""

import pytest
import small
import torch


@pytest.fixture(scope="module")
def results(pack):
    import comfy.supported_models
    from gligen_pack.benchmark import contestants, race, shapes

    shapes.SHAPES["small"] = comfy.supported_models.SD15, small.SD15
    setting = contestants.Setting("small", 128, 1, 10, torch.float32)
    yield race.run(setting, rounds=1, device=torch.device("cpu"), kinds=False)
    del shapes.SHAPES["small"]


def ours(results, tau: str):
    return results[f"this pack, text box, τ = {tau}"]


def test_each_step_is_one_model_call(results):
    assert {r["calls_a_step"] for name, r in results.items() if "core" not in name} == {1.0}


def test_the_hosts_own_gligen_makes_two(results):
    assert results["host core, text box"]["calls_a_step"] == 2


def test_where_beta_is_0_nothing_is_computed(results):
    assert ours(results, "0")["flops"] == 1
    assert ours(results, "0")["extra_memory_mb"] < 0.01


def test_a_share_of_the_steps_costs_its_share_of_the_arithmetic(results):
    """Keys and tokens are computed once, whatever the number of steps, and are what is left over."""
    full, some = (ours(results, tau)["flops"] - 1 for tau in ("1", "0.3"))
    assert 0.3 * full <= some < 0.35 * full
