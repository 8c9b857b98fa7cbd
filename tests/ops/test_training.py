"""The learning procedure on a toy base: what learns, what does not, what is dropped."""

import math
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


def test_only_gligen_learns_and_its_gates_open(tmp_path):
    base, gligen = toy()
    before = training.fingerprint(base.parameters())
    fixed = batch()
    t = torch.full((8,), 500)
    training.learn(
        base, gligen, lambda step: (fixed, t), torch.zeros(1, 5, WIDTH), tmp_path / "g.pt", 30
    )
    assert all(torch.equal(a, b) for a, b in zip(before, base.parameters(), strict=True))
    assert all(abs(g) > 1e-3 for g in training.gate_values(gligen)[str(BLOCK)])


def learned(monkeypatch, gligen, opening=10, **kwargs):
    """What `learn` asks of the loop, and the examples of a step."""
    asked = {}

    def fit(file, module, groups, loss, steps, every):
        asked.update(file=file, module=module, groups=groups, loss=loss, steps=steps, every=every)
        return 7.0

    monkeypatch.setattr(training, "fit", fit)
    base, _ = toy()

    def batches(step):
        torch.manual_seed(step)
        return batch(2), torch.randint(1000, (2,))

    null = torch.zeros(1, 5, WIDTH)
    assert training.learn(base, gligen, batches, null, "g.pt", 30, opening=opening, **kwargs) == 7
    assert (asked["file"], asked["module"], asked["steps"]) == ("g.pt", gligen, 30)
    return asked


def test_gates_learn_at_their_own_rate_without_decay_and_all_the_rest_at_another(monkeypatch):
    _, gligen = toy()
    rest, gates = learned(monkeypatch, gligen, lr=0.1, gate_lr=0.2)["groups"]
    layer = gligen.layer(BLOCK)
    assert {*map(id, gates["params"])} == {id(layer.alpha_attn), id(layer.alpha_dense)}
    assert {*map(id, rest["params"] + gates["params"])} == {*map(id, gligen.parameters())}
    assert len(rest["params"]) + len(gates["params"]) == len(list(gligen.parameters()))
    assert (rest["lr"], gates["lr"]) == (0.1, 0.2)
    assert gates["weight_decay"] == 0 and "weight_decay" not in rest


def test_gates_are_opened_step_by_step_and_then_left_to_learn(monkeypatch):
    _, gligen = toy()
    layer = gligen.layer(BLOCK)
    loss = learned(monkeypatch, gligen)["loss"]
    for step in (0, 5, 10):
        loss(step)
        for gate in (layer.alpha_attn, layer.alpha_dense):
            assert gate.item() == pytest.approx(training.OPENED * step / 10)
    with torch.no_grad():
        layer.alpha_attn.fill_(0.7)
        layer.alpha_dense.fill_(-0.2)
    loss(11).backward()
    learns = learned(monkeypatch, gligen, opening=0)["loss"]
    learns(0).backward()
    for gate, value in ((layer.alpha_attn, 0.7), (layer.alpha_dense, -0.2)):
        assert gate.item() == pytest.approx(value)
        assert gate.grad.abs() > 0
    told = training.gate_values(gligen)[str(BLOCK)]
    assert told == pytest.approx((math.tanh(0.7), math.tanh(-0.2)))


def test_the_guidance_fades_out_over_its_steps(monkeypatch):
    _, gligen = toy()
    loss = learned(monkeypatch, gligen, opening=0)["loss"]
    given = []
    monkeypatch.setattr(training, "loss", lambda *args: given.append(args[-1]))
    for step in (0, training.GUIDED // 4, training.GUIDED, 3 * training.GUIDED):
        loss(step)
    assert given == pytest.approx([training.GUIDANCE, 0.75 * training.GUIDANCE, 0, 0])


def test_caption_and_grounding_are_each_dropped_for_a_tenth_of_the_examples():
    torch.manual_seed(3)
    count = 4000
    examples = training.Batch(
        torch.zeros(count, 1, 1, 1),
        torch.ones(count, 2, 3),
        (torch.zeros(count, 4, 4), torch.ones(count, 4), torch.zeros(count, 4, 1)),
        torch.ones(count, 4, 4),
    )
    dropped = training.dropped(examples, torch.zeros(1, 2, 3))
    no_caption = (dropped.context == 0).all((1, 2))
    no_grounding = (dropped.grounding[1] == 0).all(1)
    for share in (no_caption, no_grounding):
        assert 0.08 < share.float().mean() < 0.12
    # Independently of each other: a hundredth have neither.
    assert 0.004 < (no_caption & no_grounding).float().mean() < 0.018
    # All of an example's entities, or none.
    assert ((dropped.grounding[1].sum(1) == 4) | no_grounding).all()
    assert torch.equal((dropped.regions == 0).all((1, 2)), no_grounding)


def test_what_is_dropped_is_null_and_what_is_kept_is_as_it_was():
    torch.manual_seed(3)
    examples = batch(100)
    examples = replace(examples, beside=["maps"])
    null = torch.randn(1, 5, WIDTH)
    dropped = training.dropped(examples, null)
    captions, groundings = [], []
    for i in range(100):
        captions.append(torch.equal(dropped.context[i], examples.context[i]))
        assert captions[-1] or torch.equal(dropped.context[i], null[0])
        its = [(t[i], was[i]) for t, was in zip(dropped.grounding, examples.grounding, strict=True)]
        its.append((dropped.regions[i], examples.regions[i]))
        groundings.append(all(torch.equal(*pair) for pair in its))
        assert groundings[-1] or not any(t.any() for t, _ in its)
    for kept in (captions, groundings):
        assert 80 <= sum(kept) < 100
    assert captions != groundings
    assert torch.equal(dropped.latents, examples.latents) and dropped.beside == ["maps"]


def test_the_loss_is_of_examples_with_something_dropped(monkeypatch):
    base, gligen = toy()
    seen = []
    monkeypatch.setattr(
        training, "dropped", lambda batch, null: seen.append((batch, null)) or batch
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


def test_guidance_teaches_places_to_attend_to_their_entity():
    base, gligen = toy()
    training.open_gates(gligen, 1.0)
    corners = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    grounding = (corners.expand(8, 2, 4), torch.ones(8, 2), torch.randn(1, 2, 16).expand(8, 2, 16))
    # Visual tokens that tell their place, as those of a trained base do.
    z = torch.linspace(-2, 2, 4).expand(8, 4, 4, 4)
    fixed = training.Batch(z, torch.zeros(8, 5, WIDTH), grounding, grounding[0])
    layer = gligen.layer(BLOCK)
    optimiser = torch.optim.Adam(gligen.parameters(), lr=5e-3)

    def surprise():
        keys = layer.keys(gligen.position_net(*grounding)).key
        v = base.into(z.flatten(2).transpose(1, 2))
        return training.surprise(layer, v, keys, 4, training.inside(grounding[0], 16)).item()

    before = surprise()
    for _ in range(60):
        t = torch.full((8,), 500)
        value = training.loss(
            base, gligen, training.Diffusion(), fixed, torch.zeros(1, 5, WIDTH), t, guidance=1.0
        )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert surprise() < 0.5 * before


def test_a_widened_first_convolution_starts_as_the_bases_and_learns_what_is_beside(tmp_path):
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
    fixed = training.Batch(z, context, grounding, torch.zeros(8, 1, 4), maps)
    base = training.freeze(small.randomise(ToyBase(), 1))
    t = torch.full((8,), 500)
    training.learn(
        base, gligen, lambda step: (fixed, t), context[:1] * 0, tmp_path / "g.pt", 5, opening=0
    )
    assert gligen.first_conv.conv.weight[:, 4:].any()
    assert not torch.equal(first.conv.weight[:, :4], gligen.first_conv.conv.weight[:, :4])
    assert gligen.first_conv.downsample_net.layers[0].weight.grad is not None
