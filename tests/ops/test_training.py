"""The learning procedure on a toy base: what learns, what does not, what is dropped."""

import pytest
import small
import torch
from gligen_pack.gligen_ops.entities import Inpainting, SpatialMap
from gligen_pack.gligen_ops.layers.first_conv import Downsampler, KnownRegion
from gligen_pack.gligen_ops.learning import training
from gligen_pack.gligen_ops.model import Block, Gligen
from gligen_pack.gligen_ops.tokenizers.box import BoxTokenizer
from gligen_pack.gligen_ops.tokenizers.maps import MapTokenizer

BLOCK = Block("middle", 0, 0)
WIDTH = 32


@pytest.fixture(autouse=True)
def one_thread():
    """Threads only get in each other's way on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ToyBase(torch.nn.Module):
    """Visual tokens in and out, one block, a linear map for everything that a UNet does."""

    def __init__(self):
        super().__init__()
        self.into, self.out = torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, 4)

    def forward(self, z, t, context, fuse, first=None):
        v = self.into(z.flatten(2).transpose(1, 2)) if first is None else visual(first(z))
        v = v + context.mean(1, keepdim=True)
        return self.out(fuse(v, BLOCK, 4)).transpose(1, 2).unflatten(2, z.shape[2:])


def visual(h):
    return h.flatten(2).transpose(1, 2)


def toy():
    torch.manual_seed(0)
    gligen = Gligen(BoxTokenizer(16, 16), 16, {BLOCK: WIDTH})
    return training.freeze(small.randomise(ToyBase(), 1)), gligen


def batch(count=8):
    boxes = torch.rand(count, 30, 4)
    mask = torch.ones(count, 30)
    grounding = (boxes, mask, torch.randn(count, 30, 16))
    latents, context = torch.randn(count, 4, 4, 4), torch.randn(count, 5, WIDTH)
    return training.Batch(latents, context, grounding, boxes)


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


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path):
    def run(file, stop=None):
        base, gligen = toy()

        def every(step):
            if step == stop:
                raise KeyboardInterrupt

        def batches(step):
            torch.manual_seed(step)
            return batch(), torch.randint(1000, (8,))

        null = torch.zeros(1, 5, WIDTH)
        try:
            training.learn(base, gligen, batches, null, file, 210, every)
        except KeyboardInterrupt:
            return None
        return gligen.state_dict()

    whole = run(tmp_path / "whole.pt")
    assert run(tmp_path / "parts.pt", stop=205) is None
    resumed = run(tmp_path / "parts.pt")
    assert all(torch.allclose(whole[k], resumed[k], atol=1e-6) for k in whole)


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


def test_noise_follows_the_schedule_of_stable_diffusion():
    diffusion = training.Diffusion()
    assert abs(diffusion.alpha_bar[0].item() - (1 - 0.00085)) < 1e-7
    assert abs(diffusion.alpha_bar[999].item() - 0.00466) < 1e-4
    z, noise = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    t = torch.tensor([999])
    assert diffusion.noisy(z, noise, t).item() == diffusion.alpha_bar[999].sqrt().item()


def test_a_place_is_inside_a_box_by_its_centre():
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0]]])
    places = training.inside(boxes, 16).unflatten(1, (4, 4))
    assert places[0, :, :, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert places[0, :, :, 1].tolist() == [[0, 0, 1, 1]] * 4
    assert not training.inside(torch.zeros(1, 2, 4), 16).any()


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
