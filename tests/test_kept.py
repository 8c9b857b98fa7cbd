"""What is kept from one model call to the next, and that nothing is kept from one run to the next."""

import pytest
import small
import torch
from rig import added_tokens, gated_layers, person, picture, relative

BOX = 0.1, 0.2, 0.6, 0.4
OTHER_BOX = 0.3, 0.1, 0.2, 0.7


def test_what_a_kept_residual_adds_falls_with_beta(rig):
    """β is 1, 3/4, 1/2, 1/4 and 0, each of them halved."""
    falling = {"tau": 0.2, "decay": 0.8, "strength": 0.5}
    kept = rig.schedule(refresh_every=20, **falling)
    with added_tokens(rig) as added:
        rig.sample(kept, rig.text_box("a cat", *BOX), steps=5)
    assert len(added) == 5
    for beta, more in zip((1, 0.75, 0.5, 0.25, 0), added, strict=True):
        assert torch.allclose(more, beta * added[0], atol=1e-5)
    with added_tokens(rig) as fresh:
        rig.sample(rig.schedule(**falling), rig.text_box("a cat", *BOX), steps=5)
    assert relative(fresh[1], 0.75 * fresh[0]) > 1e-3


def test_a_residual_is_made_anew_after_so_many_calls(rig):
    with added_tokens(rig) as added:
        rig.sample(rig.schedule(refresh_every=2), rig.text_box("a cat", *BOX), steps=4)
    alike = [torch.allclose(a, b, atol=1e-5) for a, b in zip(added, added[1:], strict=False)]
    assert alike == [True, False, True]


def longer(conditioning):
    """Of so many more tokens that the host runs it in a model call of its own."""
    text, extra = conditioning[0]
    return [[torch.cat([text, text[:, :3]], dim=1), extra]]


@pytest.mark.parametrize("negative_grounding", ["null", "none"])
def test_positive_and_negative_in_calls_of_their_own_keep_their_own_residuals(
    rig, negative_grounding
):
    model = rig.schedule(refresh_every=20, negative_grounding=negative_grounding)
    with added_tokens(rig) as added:
        rig.sample(model, rig.text_box("a cat", *BOX), longer(rig.negative), steps=3, cfg=4.0)
    assert len(added) == 6 and all(len(one) == 1 for one in added)
    first, second = added[:2]
    assert relative(first, second) > 1e-2 if negative_grounding == "null" else True
    for call, more in enumerate(added):
        assert torch.allclose(more, added[call % 2], atol=1e-5)
    silent = [bool(one.abs().max() < 1e-5) for one in (first, second)]
    assert silent.count(True) == (0 if negative_grounding == "null" else 1)


def test_positive_and_negative_in_calls_of_their_own_get_what_they_get_in_one(rig):
    """At one step the length of the negative alone makes the difference."""
    positive = rig.text_box("a cat", *BOX)
    with added_tokens(rig) as added:
        rig.sample(rig.schedule(), positive, rig.negative, cfg=4.0)
        rig.sample(rig.schedule(), positive, longer(rig.negative), cfg=4.0)
    together, *apart = added
    chunks = together.chunk(2)
    for one in apart:
        assert min(relative(one, chunk) for chunk in chunks) < 1e-4
    assert relative(chunks[0], chunks[1]) > 1e-2


@pytest.mark.parametrize("with_schedule", [True, False], ids=["schedule node", "plain KSampler"])
@pytest.mark.parametrize("change", [lambda x: x.mT, lambda x: x.repeat(2, 1, 1, 1)],
                         ids=["size", "batch"])  # fmt: skip
def test_a_sampler_that_changes_the_latent_in_a_run_gets_what_belongs_to_each(
    rig, change, with_schedule
):
    """With a box in pixels, as the host's own node gives it."""
    import comfy.samplers

    import nodes as host

    add = host.GLIGENTextBoxApply().append
    (positive,) = add(rig.prompt, small.Clip(), rig.gligen(), "a cat", 32, 24, 16, 8)
    model = rig.schedule() if with_schedule else rig.model

    def run(first_as_it_is):
        def sampler(model, x, sigmas, extra_args, callback, disable):
            if first_as_it_is:
                model(x, sigmas[:1], **extra_args)
            changed = change(x)
            return model(changed, sigmas[:1].expand(len(changed)), **extra_args)

        noise = torch.randn(1, 4, 8, 16, generator=torch.manual_seed(1))
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "normal", 2
        )
        with torch.inference_mode():
            return comfy.samplers.sample(
                model, noise, positive, rig.negative, 1.0, "cpu", comfy.samplers.KSAMPLER(sampler),
                sigmas, latent_image=torch.zeros_like(noise), disable_pbar=True,
            )  # fmt: skip

    assert torch.equal(run(True), run(False))


def area(positive):
    import nodes as host

    return host.ConditioningSetArea().append(positive, 64, 64, 64, 0, 1.0)[0]


def all_kinds(rig, gligens):
    """A box, a map and a person, of these GLIGENs."""
    image = picture(3)
    positive = rig.text_box("a cat", *BOX, gligen=gligens["text box"])
    positive = rig.spatial_map(image, to=positive, gligen=gligens["depth map"])
    return rig.keypoints([person()], to=positive, gligen=gligens["keypoints"])


KINDS = "text box", "depth map", "keypoints"


def other_dtype(model):
    model = model.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    return model


OTHER_RUNS = {
    "size": lambda rig, model, positive: rig.sample(model, positive, size=(16, 8)),
    "batch": lambda rig, model, positive: rig.sample(model, positive, batch=3),
    "dtype": lambda rig, model, positive: rig.sample(other_dtype(model), positive),
    "area": lambda rig, model, positive: rig.sample(model, area(positive) + rig.prompt),
    "steps": lambda rig, model, positive: rig.sample(model, positive, steps=2),
    "guidance": lambda rig, model, positive: rig.sample(model, positive, cfg=4.0),
}


@pytest.mark.parametrize("run", OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_a_run_with_objects_of_another_run_is_a_run_with_fresh_ones_to_the_bit(rig, run):
    used = {kind: rig.gligen(kind) for kind in KINDS}
    model, positive = rig.schedule(refresh_every=3), all_kinds(rig, used)
    first = rig.sample(model, positive)
    again = run(rig, model, positive)
    fresh = {kind: rig.new_gligen(kind) for kind in KINDS}
    expected = run(rig, rig.schedule(refresh_every=3), all_kinds(rig, fresh))
    assert torch.equal(again, expected)
    assert torch.equal(rig.sample(model, positive), first)


@pytest.mark.parametrize("run", OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_so_it_is_in_a_plain_ksampler(rig, run):
    positive = rig.text_box("a cat", *BOX)
    first = rig.sample(rig.model, positive)
    again = run(rig, rig.model, positive)
    fresh = rig.text_box("a cat", *BOX, gligen=rig.new_gligen("text box"))
    assert torch.equal(again, run(rig, rig.model, fresh))
    assert torch.equal(rig.sample(rig.model, positive), first)


def test_a_run_with_another_conditioning_has_nothing_of_the_one_before(rig):
    for model in (rig.model, rig.schedule(), rig.schedule(refresh_every=3)):
        gligen = rig.gligen()
        rig.sample(model, rig.text_box("a cat", *BOX, gligen=gligen))
        again = rig.sample(model, rig.text_box("a dog", *OTHER_BOX, gligen=gligen))
        fresh = rig.new_gligen("text box")
        expected = rig.sample(model, rig.text_box("a dog", *OTHER_BOX, gligen=fresh))
        assert torch.equal(again, expected)


@pytest.mark.parametrize("with_schedule", [True, False], ids=["schedule node", "plain KSampler"])
def test_the_grounding_of_two_conditionings_of_one_run_does_not_mix(rig, with_schedule):
    """Each in its half of the picture, by one GLIGEN."""
    import nodes as host

    def half(positive, x):
        return host.ConditioningSetArea().append(positive, 64, 64, x, 0, 1.0)[0]

    model = rig.schedule() if with_schedule else rig.model
    cat, dog = rig.text_box("a cat", *BOX), rig.text_box("a dog", *OTHER_BOX)
    both = rig.sample(model, half(cat, 0) + half(dog, 64))
    left = rig.sample(model, half(cat, 0) + half(rig.prompt, 64))
    right = rig.sample(model, half(rig.prompt, 0) + half(dog, 64))
    assert relative(both, torch.cat([left[..., :8], right[..., 8:]], -1)) < 1e-5
    swapped = rig.sample(model, half(dog, 0) + half(cat, 64))
    assert relative(both, swapped) > 1e-3


def test_gated_layers_are_not_run_where_residuals_are_kept(rig):
    calls = []
    layer = gated_layers(rig.gligen())[0]
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    rig.sample(rig.schedule(refresh_every=3), rig.text_box("a cat", *BOX), steps=4)
    hook.remove()
    assert len(calls) == 2


def added_by(rig, *kinds):
    """What these add in the first block, and the run's latent."""
    positive = rig.prompt
    for kind in kinds:
        if kind == "text box":
            positive = rig.text_box("a cat", *BOX, to=positive)
        elif kind == "keypoints":
            positive = rig.keypoints([person()], to=positive)
        else:
            positive = rig.text_box("a dog", *OTHER_BOX, to=positive, seed=1)
    with added_tokens(rig) as added:
        latent = rig.scheduled(positive)
    return added[0], latent


def test_three_models_add_what_each_adds_in_any_order(rig):
    kinds = ["text box", "keypoints", "another text box"]
    each = [added_by(rig, kind)[0] for kind in kinds]
    together, latent = added_by(rig, *kinds)
    assert all(one.abs().max() > 1e-2 for one in each)
    assert relative(together, sum(each)) < 1e-5
    assert relative(added_by(rig, *kinds[::-1])[1], latent) < 1e-5
    for left_out in range(3):
        rest = [kind for i, kind in enumerate(kinds) if i != left_out]
        assert relative(added_by(rig, *rest)[1], latent) > 1e-3


def test_a_boxs_phrase_is_of_its_own_box(rig):
    cat, dog = ("a cat", BOX), ("a dog", OTHER_BOX)
    cat_then_dog = rig.text_box(dog[0], *dog[1], to=rig.text_box(cat[0], *cat[1]))
    swapped = rig.text_box(cat[0], *dog[1], to=rig.text_box(dog[0], *cat[1]))
    assert relative(rig.scheduled(cat_then_dog), rig.scheduled(swapped)) > 1e-4
