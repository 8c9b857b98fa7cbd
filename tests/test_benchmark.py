"""The benchmark on a small model: that it runs, and what it counts. Its timings are nobody's test."""

import pytest
import small
import torch


@pytest.fixture(scope="module")
def setting(pack):
    import comfy.supported_models
    from gligen_pack.benchmark import contestants, shapes

    shapes.SHAPES["small"] = comfy.supported_models.SD15, small.SD15
    yield contestants.Setting("small", 128, 1, 10, torch.float32)
    del shapes.SHAPES["small"]


@pytest.fixture(scope="module")
def results(setting):
    from gligen_pack.benchmark import race

    return race.run(setting, rounds=1, device=torch.device("cpu"))


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


def test_a_traced_step_waits_as_often_as_plain_sampling(setting, tmp_path):
    from gligen_pack.benchmark import trace

    traced = trace.run(setting, tmp_path)
    assert traced["plain"] == traced["this pack, text box, τ = 1"]
    assert {file.name for file in tmp_path.iterdir()} == {"trace_plain.json", "trace_grounded.json"}


def event(cat, name, start, length, correlation=None):
    args = {"correlation": correlation}
    return {"cat": cat, "name": name, "ts": start, "dur": length, "args": args}


def test_a_trace_of_a_gpu_tells_waits_and_gaps(pack):
    from gligen_pack.benchmark import trace

    events = [
        event("user_annotation", trace.STEP, 100, 50),
        event("cuda_runtime", "cudaLaunchKernel", 90, 2, 1),  # of the step before
        event("cuda_runtime", "cudaLaunchKernel", 110, 2, 2),
        event("cuda_runtime", "cudaLaunchKernel", 120, 2, 3),
        event("cuda_runtime", "cudaStreamSynchronize", 130, 2),
        event("cuda_runtime", "cudaDeviceSynchronize", 160, 2),  # the profiler's own, after it
        event("kernel", "earlier", 140, 20, 1),
        event("kernel", "gemm", 200, 30, 2),
        event("gpu_memcpy", "copy", 240, 10, 3),
        {"name": "process_name", "ph": "M"},
    ]
    assert trace.figures(events) == {"waits": 1, "kernels": 2, "busy": 0.8, "gap_us": 10}
