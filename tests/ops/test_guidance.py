"""How the demo's GLIGENs learn, on a toy base: gates that are opened by hand, and layers that are told where
to look."""

import math

import pytest
import small
import torch
from gligen_pack.demo.training import guidance
from gligen_pack.gligen_ops.learning import training
from toy import BLOCK, WIDTH, batch, toy


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only get in each other's way on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_only_gligen_learns_and_its_gates_open(tmp_path):
    base, gligen = toy()
    before = training.fingerprint(base.parameters())
    fixed = batch()
    t = torch.full((8,), 500)
    null = torch.zeros(1, 5, WIDTH)
    example = fixed, fixed.grounding[0], t
    guidance.learn(base, gligen, lambda step: example, null, tmp_path / "g.pt", 30)
    assert all(torch.equal(a, b) for a, b in zip(before, base.parameters(), strict=True))
    assert all(abs(g) > 1e-3 for g in training.gate_values(gligen)[str(BLOCK)])


def learned(monkeypatch, gligen, opening=10):
    """What `learn` asks of the loop, and the examples of a step."""
    asked = {}

    def fit(file, module, groups, loss, steps, every):
        asked.update(file=file, module=module, groups=groups, loss=loss, steps=steps, every=every)
        return 7.0

    monkeypatch.setattr(guidance, "fit", fit)
    base, _ = toy()

    def batches(step):
        torch.manual_seed(step)
        examples = batch(2)
        return examples, examples.grounding[0], torch.randint(1000, (2,))

    null = torch.zeros(1, 5, WIDTH)
    assert guidance.learn(base, gligen, batches, null, "g.pt", 30, opening=opening) == 7
    assert (asked["file"], asked["module"], asked["steps"]) == ("g.pt", gligen, 30)
    return asked


def test_gates_learn_at_their_own_rate_without_decay_and_all_the_rest_at_another(monkeypatch):
    _, gligen = toy()
    rest, gates = learned(monkeypatch, gligen)["groups"]
    layer = gligen.layer(BLOCK)
    assert {*map(id, gates["params"])} == {id(layer.alpha_attn), id(layer.alpha_dense)}
    assert {*map(id, rest["params"] + gates["params"])} == {*map(id, gligen.parameters())}
    assert len(rest["params"]) + len(gates["params"]) == len(list(gligen.parameters()))
    assert (rest["lr"], gates["lr"]) == (guidance.LR, guidance.GATE_LR)
    assert gates["weight_decay"] == 0 and "weight_decay" not in rest


def test_gates_are_opened_step_by_step_and_then_left_to_learn(monkeypatch):
    _, gligen = toy()
    layer = gligen.layer(BLOCK)
    loss = learned(monkeypatch, gligen)["loss"]
    for step in (0, 5, 10):
        loss(step)
        for gate in (layer.alpha_attn, layer.alpha_dense):
            assert gate.item() == pytest.approx(guidance.OPENED * step / 10)
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
    monkeypatch.setattr(guidance, "guided_loss", lambda *args: given.append(args[-1]))
    for step in (0, guidance.GUIDED // 4, guidance.GUIDED, 3 * guidance.GUIDED):
        loss(step)
    assert given == pytest.approx([guidance.WEIGHT, 0.75 * guidance.WEIGHT, 0, 0])


def test_guidance_teaches_places_to_attend_to_their_entity():
    base, gligen = toy()
    guidance.open_gates(gligen, 1.0)
    corners = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    grounding = (corners.expand(8, 2, 4), torch.ones(8, 2), torch.randn(1, 2, 16).expand(8, 2, 16))
    # Visual tokens that tell their place, as those of a trained base do.
    z = torch.linspace(-2, 2, 4).expand(8, 4, 4, 4)
    fixed = training.Batch(z, torch.zeros(8, 5, WIDTH), grounding)
    layer = gligen.layer(BLOCK)
    optimiser = torch.optim.Adam(gligen.parameters(), lr=5e-3)

    def surprise():
        keys = layer.keys(gligen.position_net(*grounding)).key
        v = base.into(z.flatten(2).transpose(1, 2))
        return guidance.surprise(layer, v, keys, 4, guidance.inside(grounding[0], 16)).item()

    before = surprise()
    null, t = torch.zeros(1, 5, WIDTH), torch.full((8,), 500)
    for _ in range(60):
        value = guidance.guided_loss(
            base, gligen, training.Diffusion(), fixed, null, t, grounding[0], weight=1.0
        )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert surprise() < 0.5 * before


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_guidance_weighs_the_surprise_that_is_added_to_the_objective(monkeypatch, weight):
    base, gligen = toy()
    examples, null = batch(2), torch.zeros(1, 5, WIDTH)
    t = torch.tensor([3, 400])
    monkeypatch.setattr(guidance, "surprise", lambda *_: torch.tensor(2.5))
    of_batch = base, gligen, training.Diffusion(), examples, null, t
    losses = []
    for chosen in (0.0, weight):
        torch.manual_seed(1)
        losses.append(guidance.guided_loss(*of_batch, examples.grounding[0], chosen).item())
    torch.manual_seed(1)
    assert losses[0] == training.loss(*of_batch).item()
    assert losses[1] - losses[0] == pytest.approx(2.5 * weight, rel=1e-4)


def test_guidance_leaves_out_examples_whose_grounding_is_dropped():
    _, gligen = toy()
    layer, v = gligen.layer(BLOCK), torch.randn(2, 16, WIDTH)
    keys = layer.keys(torch.randn(2, 1, 16))
    values = []
    for regions, kept in (([1, 1], [1, 0]), ([1, 0], [1, 1])):
        corners = torch.tensor([[[0, 0, 1.0, 1.0]]]) * torch.tensor(regions).view(2, 1, 1)
        seen = guidance.Guidance(corners)
        seen.see(layer, v, keys, 4, torch.tensor(kept)[:, None])
        values.append(seen.loss().item())
    assert values[0] == values[1] > 0


def test_a_place_is_inside_a_box_by_its_centre():
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0]]])
    places = guidance.inside(boxes, 16).unflatten(1, (4, 4))
    assert places[0, :, :, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert places[0, :, :, 1].tolist() == [[0, 0, 1, 1]] * 4
    assert not guidance.inside(torch.zeros(1, 2, 4), 16).any()


def test_surprise_is_the_mean_log_of_the_attention_from_the_places_of_a_region():
    _, gligen = toy()
    layer = small.randomise(gligen.layer(BLOCK), 3).double()
    v, tokens = torch.randn(2, 9, WIDTH).double(), torch.randn(2, 4, 16).double()
    places = (torch.rand(2, 9, 4) < 0.3).double()
    h = layer.norm1(v)
    own = layer.norm1(layer.linear(tokens))
    q, k = layer.attn.to_q(h), layer.attn.to_k(torch.cat([h, own], 1))
    total = 0
    for head in (slice(0, 16), slice(16, 32)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / 4).softmax(-1)
        total -= (weights[..., 9:].log() * places).sum() / 2
    surprise = guidance.surprise(layer, v, layer.keys(tokens).key, 2, places)
    assert surprise.item() == pytest.approx((total / places.sum()).item(), rel=1e-5)
    assert guidance.surprise(layer, v, layer.keys(tokens).key, 2, 0 * places) == 0
