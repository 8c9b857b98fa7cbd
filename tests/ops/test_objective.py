"""What GLIGEN learns: the noise, seen with its caption, its map and its grounding."""

import math
from dataclasses import replace

import pytest
import small
import torch
from gligen_pack.gligen_ops.entities import SpatialMap
from gligen_pack.gligen_ops.layers.first_conv import Downsampler, FirstConv
from gligen_pack.gligen_ops.learning import training
from toy import BLOCK, WIDTH, batch, toy


def alpha_bar(t):
    """Π (1 − β) up to t, in Python's numbers."""
    first, last = 0.00085**0.5, 0.012**0.5
    return math.prod(1 - (first + (last - first) * i / 999) ** 2 for i in range(t + 1))


def test_noise_follows_the_schedule_of_stable_diffusion():
    """z_t = √ᾱ_t z + √(1−ᾱ_t) ε, each example at its own t."""
    z, noise = torch.randn(2, 4, 2, 6, 5)
    t = [0, 250, 700, 999]
    noisy = training.Diffusion().noisy(z, noise, torch.tensor(t))
    for i, its_t in enumerate(t):
        kept = alpha_bar(its_t)
        expected = math.sqrt(kept) * z[i] + math.sqrt(1 - kept) * noise[i]
        torch.testing.assert_close(noisy[i], expected, rtol=1e-4, atol=1e-4)
    assert alpha_bar(999) == pytest.approx(0.00466, abs=1e-4)


def objective(denoise, latents, t):
    """The loss of a base that sees z_t and t, without grounding that would show."""
    _, gligen = toy()
    examples = replace(batch(len(latents)), latents=latents)

    def base(z, t, context, fuse, first):
        assert z.shape == latents.shape and torch.equal(t, torch.tensor(its_t))
        return denoise(z, t)

    its_t = t
    null = torch.zeros(1, 5, WIDTH)
    return training.loss(base, gligen, training.Diffusion(), examples, null, torch.tensor(t)).item()


def test_the_objective_asks_for_the_noise_and_not_for_the_picture():
    latents, t = 3 + torch.randn(4, 4, 6, 5), [100, 400, 700, 990]
    kept = torch.tensor([alpha_bar(its_t) for its_t in t]).view(4, 1, 1, 1)

    def noise(z, _):
        return (z - kept.sqrt() * latents) / (1 - kept).sqrt()

    assert objective(noise, latents, t) < 1e-5
    assert objective(lambda z, t: noise(z, t) + 0.5, latents, t) == pytest.approx(0.25, rel=1e-3)
    assert objective(lambda z, t: latents, latents, t) > 5
    # The noise is of mean 0 and variance 1.
    assert objective(lambda z, t: 0 * z, latents.repeat(1, 1, 9, 9), t) == pytest.approx(
        1, rel=0.05
    )


def seen_by_the_base(gligen, examples):
    """Caption and first convolution's answer to nothing, as the base is given them."""
    seen = []

    def base(z, t, context, fuse, first):
        seen.extend([context, first and first(torch.zeros_like(z))])
        return fuse(z.flatten(2).transpose(1, 2) @ torch.ones(4, WIDTH), BLOCK, 4).sum() + 0 * z

    null, t = torch.zeros(1, 5, WIDTH), torch.zeros(len(examples.latents), dtype=torch.long)
    training.loss(base, gligen, training.Diffusion(), examples, null, t)
    return seen


def test_the_base_sees_the_caption_of_each_example(monkeypatch):
    monkeypatch.setattr(training, "DROP", 0)
    _, gligen = toy()
    examples = batch(3)
    context, first = seen_by_the_base(gligen, examples)
    assert torch.equal(context, examples.context) and first is None


def test_the_base_sees_each_examples_own_map_on_latents_of_any_sides():
    _, gligen = toy()
    gligen.first_conv = small.randomise(FirstConv(WIDTH, Downsampler(1)), 7)
    maps = [SpatialMap(torch.rand(1, 40, 70)) for _ in range(3)]

    def extra_of(first_conv):
        return torch.cat([first_conv.extra(one, (6, 10)) for one in maps])

    examples = replace(batch(3), latents=torch.randn(3, 4, 6, 10), extra=extra_of)
    _, first = seen_by_the_base(gligen, examples)
    extra = extra_of(gligen.first_conv)
    torch.testing.assert_close(first, gligen.first_conv(torch.zeros(3, 4, 6, 10), extra))
