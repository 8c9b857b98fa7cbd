"""What grounding costs in a run of the real host, counted: the timings are the benchmark's."""

from functools import partial

import pytest
import small
import torch
from torch.utils._python_dispatch import TorchDispatchMode

BLOCKS = 5  # of the model's transformers


class Reads(TorchDispatchMode):
    """How often a value was read from a tensor, for which a GPU has to be waited for."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def p(pack):
    from types import SimpleNamespace

    from gligen_pack.gligen_ops.entities import PhraseBox
    from gligen_pack.gligen_ops.model import blocks_of
    from gligen_pack.gligen_ops.places import Box
    from gligen_pack.nodes.encoders import phrases

    model = small.short()
    gligen = small.gligen(small.gligen_tensors(blocks_of(model.model.diffusion_model)))
    boxes = [PhraseBox("a red ball", Box(0.0, 0.25, 0.5, 0.75))]
    negative = small.conditioning(2)
    positive = phrases.ground_boxes(small.conditioning(1), gligen, small.Clip(), [boxes])

    def schedule(tau=1.0, refresh_every=1, **kwargs):
        return small.schedule(model, tau, refresh_every=refresh_every, **kwargs)

    def sample(model, positive=positive, size=(8, 12), **kwargs):
        return small.sample(model, positive, negative, size=size, **kwargs)

    return SimpleNamespace(**locals())


@pytest.fixture
def layers(p, monkeypatch):
    """Counts the gated layers that were computed."""
    from gligen_pack.gligen_ops.layers.gated_self_attention import GatedLayer

    calls = []
    forward = GatedLayer.forward
    monkeypatch.setattr(
        GatedLayer, "forward", lambda self, *args: calls.append(self) or forward(self, *args)
    )
    return calls


def reads(p, run):
    """Values read in a run beyond those that the same run reads without GLIGEN."""
    counts = []
    for model, positive in ((p.model, small.conditioning(1)), run):
        with Reads() as counter:
            p.sample(model, positive, steps=5)
        counts.append(counter.count)
    return counts[1] - counts[0]


@pytest.mark.parametrize(
    "tau, decay, expected",
    [
        (1.0, 0.0, 0),
        (0.0, 0.0, 0),
        # The first call, when nothing is under way yet, and the two around the change.
        (0.6, 0.0, 3),
        (0.6, 0.4, 4),
    ],
)
def test_the_device_is_waited_for_only_where_beta_changes(p, tau, decay, expected):
    assert reads(p, (p.schedule(tau, decay=decay), p.positive)) == expected


def euler(model, x, sigmas, extra_args, callback, disable):
    """As a pack of samplers brings it, telling nobody where it is."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = model(x, sigma[None], **extra_args)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


def restart(model, x, sigmas, extra_args, callback, disable):
    """Goes back to the beginning."""
    once = euler(model, x, sigmas[:-1], extra_args, callback, disable)
    return euler(model, once + x, sigmas, extra_args, callback, disable)


@pytest.mark.parametrize("function, runs", [(euler, 1), (restart, 2)])
def test_a_sampler_of_another_pack_gets_beta_by_its_noise_levels(p, layers, function, runs):
    import comfy.samplers

    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    model = p.schedule(0.3)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 10)
    with torch.inference_mode():
        comfy.samplers.sample(
            model, noise, p.positive, p.negative, 7.5, "cpu", comfy.samplers.KSAMPLER(function),
            sigmas, latent_image=torch.zeros_like(noise), disable_pbar=True,
        )  # fmt: skip
    assert len(layers) == BLOCKS * 3 * runs


@pytest.mark.parametrize("sampler", ["dpm_fast", "dpm_adaptive"])
def test_a_sampler_with_noise_levels_of_its_own_grounds_the_first_of_them(p, layers, sampler):
    p.sample(p.schedule(0.3), steps=6, sampler=sampler)
    grounded = len(layers)
    layers.clear()
    p.sample(p.schedule(1.0), steps=6, sampler=sampler)
    assert 0 < grounded < len(layers)


@pytest.mark.parametrize("every, computed", [(1, 10), (2, 5), (3, 4), (20, 1)])
def test_residuals_are_refreshed_every_so_many_calls(p, layers, every, computed):
    p.sample(p.schedule(refresh_every=every), steps=10)
    assert len(layers) == BLOCKS * computed


def test_kept_residuals_change_the_picture_a_little(p):
    exact = p.sample(p.schedule(), steps=10)
    kept = p.sample(p.schedule(refresh_every=2), steps=10)
    plain = p.sample(p.model, small.conditioning(1), steps=10)
    assert 0 < (kept - exact).norm() < 0.3 * (plain - exact).norm()


def test_kept_residuals_end_with_their_run(p, layers):
    model = p.schedule(refresh_every=20)
    first, again = p.sample(model, steps=3), p.sample(model, steps=3)
    assert len(layers) == 2 * BLOCKS and torch.equal(first, again)


def test_a_run_holds_the_keys_and_one_layers_activations_more_than_without(p):
    from gligen_pack.benchmark.meters import LiveBytes

    def peak(run, *args):
        with LiveBytes() as live:
            run(*args)
        return live.peak

    layers = p.gligen.model.net
    block, width = next(iter(layers.widths.items()))  # the first sees the most places
    layer = layers.layer(block)
    with torch.inference_mode():
        v, tokens = torch.zeros(2, 256, width), torch.zeros(2, 30, 768)
        activations = peak(layer, v, layer.keys(tokens), 8, layer.gates())
    keys = sum(2 * 2 * 30 * width * 4 for width in layers.widths.values())
    sample = partial(p.sample, size=(16, 16))
    more = peak(sample, p.schedule()) - peak(sample, p.model, small.conditioning(1))
    assert 0 < more < 1.1 * (keys + tokens.nbytes + activations)


@pytest.mark.parametrize("chosen", ["attention_split", "attention_sub_quad"])
def test_the_hosts_choice_of_attention_is_used_but_its_last_resort(p, monkeypatch, chosen):
    import comfy.ldm.modules.attention as host

    def spy(name, function):
        def attention(q, k, *args, **kwargs):
            seen.append((name, k.shape[1] - q.shape[1]))
            return function(q, k, *args, **kwargs)

        return attention

    seen = []
    for name in ("attention_split", "attention_sub_quad", "attention_pytorch"):
        monkeypatch.setattr(host, name, spy(name, getattr(host, name)))
    monkeypatch.setattr(host, "optimized_attention", getattr(host, chosen))
    p.sample(p.schedule(), steps=1)
    expected = {"attention_split": chosen, "attention_sub_quad": "attention_pytorch"}[chosen]
    gated = [name for name, more in seen if more == 30]  # keys of grounding tokens
    assert gated == [expected] * BLOCKS
