"""Sampling with GLIGEN in the real host, on a small model with SD 1.5's structure."""

import pytest
import reference
import small
import torch


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def p(pack):
    """What the tests use of the pack and the host."""
    from types import SimpleNamespace

    import comfy.gligen
    import comfy.model_patcher
    from gligen_pack.gligen_ops.entities import PhraseBox
    from gligen_pack.gligen_ops.model import blocks_of
    from gligen_pack.gligen_ops.places import Box
    from gligen_pack.nodes.encoders import phrases

    model = small.sd15()
    tensors = small.gligen_tensors(blocks_of(model.model.diffusion_model))

    def gligen(tensors=tensors):
        return small.gligen(tensors)

    def core(tensors=tensors):
        return comfy.model_patcher.CoreModelPatcher(
            comfy.gligen.load_gligen(tensors), torch.device("cpu"), torch.device("cpu")
        )

    boxes = [PhraseBox("a red ball", Box(0.0, 0.25, 0.5, 0.75)),
             PhraseBox("a blue cube", Box(0.5, 0.125, 0.875, 1.0))]  # fmt: skip
    positive, negative = small.conditioning(1), small.conditioning(2)

    def ground(to=positive, gligen=None, boxes=boxes):
        return phrases.ground_boxes(to, gligen, small.Clip(), [boxes])

    def schedule(tau=1.0, negative="null", **kwargs):
        return small.schedule(model, tau, negative=negative, **kwargs)

    return SimpleNamespace(**locals())


def core_boxes(conditioning, core, boxes, size=16):
    """What the host's GLIGENTextBoxApply makes of boxes on a latent of 16 × 16."""
    import nodes as host

    node = host.GLIGENTextBoxApply()
    for entity in boxes:
        b = entity.box
        x, y, w, h = (int(v * size * 8) for v in (b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0))
        (conditioning,) = node.append(conditioning, small.Clip(), core, entity.phrase, w, h, x, y)
    return conditioning


@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_same_latents_as_the_hosts_core(p, cfg):
    expected = small.sample(p.model, core_boxes(p.positive, p.core(), p.boxes), p.negative, cfg=cfg)
    plain = small.sample(p.model, p.positive, p.negative, cfg=cfg)
    got = small.sample(
        p.schedule(negative="same"), p.ground(gligen=p.gligen()), p.negative, cfg=cfg
    )
    assert relative(plain, expected) > 0.01
    assert relative(got, expected) < 1e-4


def hand_written_run(p, gligen, entries, cfg, steps):
    """Euler and classifier-free guidance written out, with the reference layer in the UNet."""
    import comfy.samplers

    base = p.model.model
    state = {k: v.double() for k, v in gligen.position_net.state_dict().items()}
    tokenizer = gligen.position_net
    inputs = tokenizer.inputs([e.at(0) for e in entries]), tokenizer.inputs([])
    tokens = [reference.box_tokens(state, *(t.double() for t in i)).float() for i in inputs]
    layers = {b: gligen.layer(b).state_dict() for b in gligen.widths}

    def denoised(x, sigma, context, tokens):
        def middle_patch(v, extra):
            block = (*extra["block"], extra["block_index"])
            return reference.gated_self_attention(layers[block], v, tokens, extra["n_heads"])

        options = {"patches": {"middle_patch": [middle_patch]}}
        return base.apply_model(x, sigma[None], c_crossattn=context, transformer_options=options)

    sigmas = comfy.samplers.calculate_sigmas(base.model_sampling, "normal", steps)
    noise = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(5))
    x = base.model_sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    with torch.inference_mode():
        for now, then in zip(sigmas, sigmas[1:], strict=False):
            with_boxes = denoised(x, now, p.positive[0][0], tokens[0])
            without = denoised(x, now, p.negative[0][0], tokens[1])
            out = without + cfg * (with_boxes - without)
            x = x + (x - out) / now * (then - now)
    return base.process_latent_out(x)


@pytest.mark.parametrize("scheduled", [True, False], ids=["schedule node", "plain KSampler"])
def test_null_negative_is_hand_written_classifier_free_guidance(p, scheduled):
    gligen = p.gligen()
    grounded = p.ground(gligen=gligen)
    model = p.schedule() if scheduled else p.model
    got = small.sample(model, grounded, p.negative, steps=3, cfg=7.5)
    expected = hand_written_run(p, gligen.model.net, small.entries(grounded), 7.5, 3)
    same = small.sample(p.schedule(negative="same"), grounded, p.negative, steps=3, cfg=7.5)
    assert relative(got, expected) < 1e-4
    assert relative(same, expected) > 2e-3


@pytest.fixture
def calls(p, monkeypatch):
    """Batch sizes of the model's calls, and of the calls of the first gated layer, in order."""
    from gligen_pack.gligen_ops.layers.gated_self_attention import GatedSelfAttention
    from gligen_pack.gligen_ops.tokenizers.box import BoxTokenizer

    seen = {"model": [], "gated": [], "keys": 0, "tokens": 0}
    forward, keys = GatedSelfAttention.forward, GatedSelfAttention.keys
    tokens = BoxTokenizer.forward

    def count_forward(layer, v, *args, **kwargs):
        seen["gated"].append((len(seen["model"]), len(v)))
        return forward(layer, v, *args, **kwargs)

    def count_keys(layer, t):
        seen["keys"] += 1
        return keys(layer, t)

    def count_tokens(tokenizer, *inputs):
        seen["tokens"] += 1
        return tokens(tokenizer, *inputs)

    monkeypatch.setattr(GatedSelfAttention, "forward", count_forward)
    monkeypatch.setattr(GatedSelfAttention, "keys", count_keys)
    monkeypatch.setattr(BoxTokenizer, "forward", count_tokens)
    hook = p.model.model.diffusion_model.register_forward_pre_hook(
        lambda _, inputs: seen["model"].append(len(inputs[0]))
    )
    yield seen
    hook.remove()


@pytest.mark.parametrize("steps", [1, 7, 10])
@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_tau_grounds_exactly_its_share_of_the_steps_and_at_least_one(p, calls, tau, steps):
    small.sample(p.schedule(tau), p.ground(gligen=p.gligen()), p.negative, steps=steps)
    grounded_calls = {call for call, _ in calls["gated"]}
    on = max(int(tau * steps), 1 if tau else 0)
    assert grounded_calls == set(range(1, on + 1))
    assert len(calls["gated"]) == 16 * on


@pytest.mark.parametrize(
    "sampler, expected",
    [
        ("euler_ancestral", {1, 2, 3}),
        ("dpmpp_2m", {1, 2, 3}),
        # Two calls a step, the second at the next step's level: it belongs to the next step.
        ("heun", {1, 2, 3, 4, 5}),
        # Two calls a step, the second at a level in between: it belongs to the step.
        ("dpm_2", {1, 2, 3, 4, 5, 6}),
    ],
)
def test_tau_follows_the_noise_level_with_every_sampler(p, calls, sampler, expected):
    small.sample(
        p.schedule(0.3), p.ground(gligen=p.gligen()), p.negative, steps=10, sampler=sampler
    )
    assert {call for call, _ in calls["gated"]} == expected


def test_with_less_denoise_tau_is_of_the_steps_that_are_run(p, calls):
    small.sample(p.schedule(0.5), p.ground(gligen=p.gligen()), p.negative, steps=4, denoise=0.5)
    assert len(calls["model"]) == 4 and {call for call, _ in calls["gated"]} == {1, 2}


def test_with_start_and_end_steps_tau_is_of_the_whole_run(p, calls):
    grounded = p.ground(gligen=p.gligen())
    small.sample(p.schedule(0.5), grounded, p.negative, steps=10, start_step=2, last_step=6)
    assert len(calls["model"]) == 4 and {call for call, _ in calls["gated"]} == {1, 2, 3}


@pytest.mark.parametrize("scheduled", [True, False], ids=["schedule node", "plain KSampler"])
def test_tokens_and_keys_are_made_once_a_run(p, calls, scheduled):
    model = p.schedule() if scheduled else p.model
    small.sample(model, p.ground(gligen=p.gligen()), p.negative, steps=5)
    assert calls["tokens"] == 2  # with boxes, and null
    assert calls["keys"] == 16  # one batch for both


def bit_identical(a, b):
    return torch.equal(a, b)


def test_no_bit_changes_where_nothing_is_grounded(p):
    plain = small.sample(p.model, p.positive, p.negative)
    gligen = p.gligen()
    closed = p.gligen(small.gligen_tensors(p.gligen().model.net.widths, gate=0.0))
    assert bit_identical(small.sample(p.schedule(0.0), p.ground(gligen=gligen), p.negative), plain)
    strength = p.schedule(1.0, strength=0.0)
    assert bit_identical(small.sample(strength, p.ground(gligen=gligen), p.negative), plain)
    assert bit_identical(small.sample(p.schedule(), p.ground(gligen=closed), p.negative), plain)
    assert bit_identical(small.sample(p.schedule(), p.positive, p.negative), plain)
    assert bit_identical(
        small.sample(p.model, p.ground(gligen=gligen, boxes=[]), p.negative), plain
    )


def weights(model):
    return {k: v.clone() for k, v in model.model.state_dict().items()}


@pytest.mark.parametrize("scheduled", [True, False], ids=["schedule node", "plain KSampler"])
def test_the_model_is_the_same_bits_afterwards_also_after_an_interrupt(p, scheduled):
    import comfy.model_management as management

    before, plain = weights(p.model), small.sample(p.model, p.positive, p.negative)
    options = repr(p.model.model_options)
    model, grounded = (p.schedule() if scheduled else p.model), p.ground(gligen=p.gligen())

    def stop(step, *_):
        if step == 1:
            raise management.InterruptProcessingException

    with pytest.raises(management.InterruptProcessingException):
        small.sample(model, grounded, p.negative, callback=stop)
    assert bit_identical(small.sample(p.model, p.positive, p.negative), plain)
    assert bit_identical(small.sample(model, p.positive, p.negative), plain)
    first, second = (small.sample(model, grounded, p.negative) for _ in range(2))
    assert bit_identical(first, second) and not bit_identical(first, plain)
    after = weights(p.model)
    assert all(bit_identical(before[k], after[k]) for k in before) and before.keys() == after.keys()
    assert repr(p.model.model_options) == options


def test_plain_ksampler_grounds_as_the_schedule_at_beta_1_does(p):
    grounded = p.ground(gligen=p.gligen())
    scheduled = small.sample(p.schedule(), grounded, p.negative)
    assert bit_identical(small.sample(p.model, grounded, p.negative), scheduled)


def test_the_last_schedule_of_a_chain_counts(p, calls):
    twice = small.schedule(p.schedule(1.0), 0.25)
    small.sample(twice, p.ground(gligen=p.gligen()), p.negative, steps=4)
    assert len(calls["gated"]) == 16


@pytest.mark.parametrize("negative, batch", [("null", 2), ("same", 2), ("none", 1)])
def test_positive_and_negative_share_a_forward_in_which_negative_grounding_picks_the_rows(
    p, calls, negative, batch
):
    small.sample(p.schedule(negative=negative), p.ground(gligen=p.gligen()), p.negative, steps=1)
    assert calls["model"] == [2] and {rows for _, rows in calls["gated"]} == {batch}


def test_boxes_on_the_negative_are_the_users_own_and_stay(p):
    gligen = p.gligen()
    grounded = p.ground(gligen=gligen)
    negative = p.ground(p.negative, gligen, p.boxes[:1])
    with_own = small.sample(p.schedule(), grounded, negative)
    assert relative(small.sample(p.schedule(), grounded, p.negative), with_own) > 1e-3


def test_boxes_are_fractions_at_any_size(p):
    grounded = p.ground(gligen=p.gligen())
    from gligen_pack.nodes.seam.conditioning import entities_in

    for size in ((16, 16), (24, 64)):
        assert next(entities_in(grounded, size, 0)).box == p.boxes[0].box
    small.sample(p.schedule(), grounded, p.negative, steps=1, size=(16, 24))


def test_a_batch_is_grounded_as_each_of_its_pictures(p):
    import comfy.sample

    latent = torch.zeros(3, 4, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 5)
    grounded = p.ground(gligen=p.gligen())

    def run(noise):
        with torch.inference_mode():
            return comfy.sample.sample(
                p.schedule(), noise, 2, 7.5, "euler", "normal", grounded, p.negative,
                torch.zeros_like(noise), disable_pbar=True,
            )  # fmt: skip

    together, apart = run(noise), torch.cat([run(n) for n in noise.split(1)])
    assert relative(together, apart) < 1e-5


def test_a_gligen_of_the_hosts_loader_works_in_this_packs_nodes(p):
    core = p.core()
    got = small.sample(p.schedule(), p.ground(gligen=core), p.negative)
    expected = small.sample(p.schedule(), p.ground(gligen=p.gligen()), p.negative)
    assert relative(got, expected) < 1e-5


def test_a_gligen_of_this_pack_works_in_the_hosts_node(p):
    from_host = core_boxes(p.positive, p.gligen(), p.boxes)
    expected = small.sample(p.schedule(), p.ground(gligen=p.gligen()), p.negative)
    assert relative(small.sample(p.schedule(), from_host, p.negative), expected) < 1e-5
    as_in_host = core_boxes(p.positive, p.core(), p.boxes)
    expected = small.sample(p.model, as_in_host, p.negative)
    assert relative(small.sample(p.model, from_host, p.negative), expected) < 1e-5


def test_the_schedule_also_takes_grounding_made_by_the_hosts_nodes_alone(p):
    from_host = core_boxes(p.positive, p.core(), p.boxes)
    expected = small.sample(p.schedule(), p.ground(gligen=p.gligen()), p.negative)
    assert relative(small.sample(p.schedule(), from_host, p.negative), expected) < 1e-5


@pytest.mark.parametrize("loader", ["core", "gligen"])
def test_boxes_of_this_pack_and_of_the_host_chain_either_way(p, loader):
    gligen = getattr(p, loader)()
    first, second = p.boxes[:1], p.boxes[1:]
    expected = small.sample(p.schedule(), p.ground(gligen=gligen), p.negative)
    ours_first = core_boxes(p.ground(gligen=gligen, boxes=first), gligen, second)
    host_first = p.ground(core_boxes(p.positive, gligen, first), gligen, second)
    for chained in (ours_first, host_first):
        assert relative(small.sample(p.schedule(), chained, p.negative), expected) < 1e-5


def test_guiders_with_more_conditionings_ground_without_a_schedule_node(p):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    grounded = p.ground(gligen=p.gligen())

    def run(model):
        guider = Guider_DualCFG(model)
        guider.set_conds(grounded, p.positive, p.negative)
        guider.set_cfg(7.5, 1.5)
        sigmas = comfy.samplers.calculate_sigmas(p.model.model.model_sampling, "normal", 2)
        latent = torch.zeros(1, 4, 16, 16)
        with torch.inference_mode():
            noise = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(3))
            return guider.sample(noise, latent, comfy.samplers.ksampler("euler"),
                                 sigmas, disable_pbar=True)  # fmt: skip

    assert bit_identical(run(p.model), run(p.schedule()))
    assert relative(run(p.model), run(p.schedule(0.0))) > 1e-3


def test_weights_of_another_base_model_are_refused_by_name(p):
    from gligen_pack.gligen_ops.errors import GligenError
    from gligen_pack.gligen_ops.model import Block

    widths = {Block("input", 4, 0): 64, Block("input", 4, 1): 64, Block("middle", 0, 0): 128}
    other = p.ground(gligen=p.gligen(small.gligen_tensors(widths)))
    name = "random.safetensors does not fit the model.*3 blocks"
    for model in (p.schedule(), p.model):
        with pytest.raises(GligenError, match=f"{name}.*SD15.*16 blocks"):
            small.sample(model, other, p.negative)
    plain = small.sample(p.model, p.positive, p.negative)
    assert bit_identical(small.sample(p.schedule(), p.positive, p.negative), plain)


def test_a_model_without_the_blocks_of_stable_diffusion_is_refused(p):
    from types import SimpleNamespace

    from gligen_pack.gligen_ops.errors import GligenError
    from gligen_pack.nodes.seam.unet import check_fit

    flux = SimpleNamespace(diffusion_model=object(), model_config=p.positive)
    with pytest.raises(GligenError, match="SD 1.x, SD 2.x and SDXL"):
        check_fit(SimpleNamespace(model=flux), p.gligen().model)


def test_a_curve_of_the_host_sets_beta_over_the_run(p, monkeypatch):
    from gligen_pack.gligen_ops.layers.gated_self_attention import GatedSelfAttention
    from gligen_pack.nodes.beta_schedule import GligenBetaSchedule

    if not hasattr(pytest.importorskip("comfy_api.input"), "CurveInput"):
        pytest.skip("a host without curves")
    curve = {"points": [[0.0, 1.0], [1.0, 0.0]], "interpolation": "linear"}
    (model,) = GligenBetaSchedule.execute(p.model, 0.3, 0.0, 0.5, "null", curve=curve).result
    betas = []
    forward = GatedSelfAttention.forward

    def note_beta(layer, v, keys, heads, gates, beta, *rest):
        betas.append(beta)
        return forward(layer, v, keys, heads, gates, beta, *rest)

    monkeypatch.setattr(GatedSelfAttention, "forward", note_beta)
    small.sample(model, p.ground(gligen=p.gligen()), p.negative, steps=5)
    assert betas[::16] == pytest.approx([0.5, 0.375, 0.25, 0.125])


def test_the_sampler_node_is_the_hosts_ksampler_with_the_schedule(p):
    from gligen_pack.nodes.ksampler import GligenKSampler

    grounded = p.ground(gligen=p.gligen())
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    with torch.inference_mode():
        (out,) = GligenKSampler.execute(
            p.model, 5, 4, 7.5, "euler", "normal", grounded, p.negative, latent,
            1.0, 0.5, 0.0, 1.0, "null",
        ).result  # fmt: skip
    expected = small.sample(p.schedule(0.5), grounded, p.negative)
    assert bit_identical(out["samples"], expected)
