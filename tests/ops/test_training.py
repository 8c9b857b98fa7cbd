"""The learning procedure on a toy base: what learns, what does not, what is dropped."""

from dataclasses import replace

import pytest
import small
import torch
from gligen_pack.gligen_ops.entities import Inpainting, SpatialMap
from gligen_pack.gligen_ops.layers.first_conv import Downsampler, KnownRegion
from gligen_pack.gligen_ops.learning import training
from gligen_pack.gligen_ops.model import Gligen
from gligen_pack.gligen_ops.tokenizers.maps import MapTokenizer
from toy import BLOCK, WIDTH, ToyBase, batch, toy


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only get in each other's way on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_an_inserted_gligen_starts_as_the_base_to_the_bit():
    base, gligen = toy()
    examples = batch()
    tokens = gligen.position_net(*examples.grounding)
    layer = gligen.layer(BLOCK)

    def grounded(v, block, heads):
        return layer(v, layer.keys(tokens), heads, layer.gates())

    arguments = (examples.latents, torch.zeros(8), examples.context)
    assert torch.equal(base(*arguments, grounded), base(*arguments, lambda v, *_: v))


def test_caption_and_grounding_are_each_dropped_for_a_tenth_of_the_examples():
    torch.manual_seed(3)
    count = 4000
    examples = training.Batch(
        torch.zeros(count, 1, 1, 1),
        torch.ones(count, 2, 3),
        (torch.zeros(count, 4, 4), torch.ones(count, 4), torch.zeros(count, 4, 1)),
    )
    dropped, kept = training.dropped(examples, torch.zeros(1, 2, 3))
    no_caption = (dropped.context == 0).all((1, 2))
    no_grounding = (dropped.grounding[1] == 0).all(1)
    for share in (no_caption, no_grounding):
        assert 0.08 < share.float().mean() < 0.12
    # Independently of each other: a hundredth have neither.
    assert 0.004 < (no_caption & no_grounding).float().mean() < 0.018
    # All of an example's entities, or none.
    assert ((dropped.grounding[1].sum(1) == 4) | no_grounding).all()
    assert torch.equal(kept[:, 0] == 0, no_grounding)


def test_what_is_dropped_is_null_and_what_is_kept_is_as_it_was():
    torch.manual_seed(3)
    examples = batch(100)
    examples = replace(examples, extra=len)
    null = torch.randn(1, 5, WIDTH)
    dropped, _ = training.dropped(examples, null)
    captions, groundings = [], []
    for i in range(100):
        captions.append(torch.equal(dropped.context[i], examples.context[i]))
        assert captions[-1] or torch.equal(dropped.context[i], null[0])
        pairs = [
            (t[i], was[i]) for t, was in zip(dropped.grounding, examples.grounding, strict=True)
        ]
        groundings.append(all(torch.equal(*pair) for pair in pairs))
        assert groundings[-1] or not any(t.any() for t, _ in pairs)
    for kept in (captions, groundings):
        assert 80 <= sum(kept) < 100
    assert captions != groundings
    assert torch.equal(dropped.latents, examples.latents) and dropped.extra is len


def test_the_loss_is_of_examples_with_something_dropped(monkeypatch):
    base, gligen = toy()
    seen = []
    monkeypatch.setattr(
        training, "dropped", lambda batch, null: seen.append((batch, null)) or (batch, None)
    )
    examples, null = batch(2), torch.randn(1, 5, WIDTH)
    t = torch.tensor([3, 4])
    training.loss(base, gligen, training.Diffusion(), examples, null, t)
    assert seen == [(examples, null)]


def test_the_base_is_frozen_in_the_state_in_which_it_is_used():
    base = training.freeze(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()))
    assert not base.training and not base[1].training
    assert not any(p.requires_grad for p in base.parameters())
    before = training.fingerprint(base.parameters())
    base[0].weight.data += 1
    assert not torch.equal(before[0], base[0].weight)
    assert torch.equal(before[1], base[0].bias)


def test_a_widened_first_convolution_starts_as_the_bases_and_learns_what_is_beside():
    torch.manual_seed(0)
    own = torch.nn.Conv2d(4, WIDTH, 3, padding=1)
    maps = [SpatialMap(torch.rand(1, 16, 16)) for _ in range(8)]
    known = [Inpainting(torch.randn(1, 4, 4, 4), torch.ones(1, 1, 4, 4)) for _ in range(8)]
    z = torch.randn(8, 4, 4, 4)
    for net, beside in ((Downsampler(1), maps), (KnownRegion(), known)):
        first = training.widened(own, net)
        extra = torch.cat([first.extra(one, (4, 4)) for one in beside])
        assert extra.any()
        torch.testing.assert_close(first(z, extra), own(z))

    tokenizer = MapTokenizer(64, 16, tokens=1)
    gligen = Gligen(tokenizer, 16, {BLOCK: WIDTH}, first_conv=training.widened(own, Downsampler(1)))
    grounding = tuple(
        torch.cat(x) for x in zip(*(tokenizer.inputs([m]) for m in maps), strict=True)
    )
    context = torch.randn(8, 5, WIDTH)
    fixed = training.Batch(
        z, context, grounding, lambda conv: torch.cat([conv.extra(m, (4, 4)) for m in maps])
    )
    base = training.freeze(small.randomise(ToyBase(), 1))
    t = torch.full((8,), 500)
    groups = training.parameter_groups(gligen, 2e-3, 5e-3)
    optimiser = torch.optim.Adam(groups)
    for _ in range(5):
        optimiser.zero_grad()
        null = context[:1] * 0
        training.loss(base, gligen, training.Diffusion(), fixed, null, t).backward()
        optimiser.step()
    assert gligen.first_conv.conv.weight[:, 4:].any()
    assert not torch.equal(first.conv.weight[:, :4], gligen.first_conv.conv.weight[:, :4])
    assert gligen.first_conv.downsample_net.layers[0].weight.grad is not None
