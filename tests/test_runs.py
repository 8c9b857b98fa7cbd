"""A sampling run in the real host, whichever way it begins: what is grounded, by whom, and what stays."""

import copy
import gc
import io
import pickle
import threading
import weakref
from types import SimpleNamespace

import pytest
import small
import torch
from gligen_pack.gligen_ops.entities import PhraseBox
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.places import Box

SIZE = (12, 20)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def p(pack, tmp_path_factory):
    from gligen_pack.gligen_ops.model import blocks_of
    from gligen_pack.nodes.encoders.phrases import ground_boxes
    from gligen_pack.nodes.seam import gligens
    from safetensors.torch import save_file

    model = small.sd15()
    file = tmp_path_factory.mktemp("gligen") / "random.safetensors"
    save_file(small.gligen_tensors(blocks_of(model.model.diffusion_model)), file)
    gligen = gligens.load(str(file), "random.safetensors").patcher
    positive, negative = small.conditioning(1), small.conditioning(2)
    first = PhraseBox("a red ball", Box(0.0, 0.25, 0.5, 0.75))
    second = PhraseBox("a blue cube", Box(0.5, 0.125, 0.875, 1.0))

    def boxes(*frames, to=positive, gligen=gligen):
        return ground_boxes(to, gligen, small.Clip(), [list(frame) for frame in frames])

    def sample(model, positive, negative=negative, **kwargs):
        return small.sample(model, positive, negative, **{"steps": 2, "size": SIZE, **kwargs})

    grounded = boxes([first, second])
    plain = sample(model, positive)
    return SimpleNamespace(**locals())


def schedule(p, *args, **kwargs):
    return small.schedule(p.model, *args, **kwargs)


def values(conditioning, **values):
    return [[text, {**cond, **values}] for text, cond in conditioning]


def guided(guider, p, seed=5, size=SIZE):
    import comfy.sample
    import comfy.samplers

    latent = torch.zeros(1, 4, *size)
    sampling = guider.model_patcher.get_model_object("model_sampling")
    with torch.inference_mode():
        return guider.sample(
            comfy.sample.prepare_noise(latent, seed), latent, comfy.samplers.sampler_object("euler"),
            comfy.samplers.calculate_sigmas(sampling, "normal", 2), disable_pbar=True, seed=seed,
        )  # fmt: skip


# Two ways in, one run


def ranged(p):
    late = values(p.grounded, start_percent=0.4, end_percent=1.0)
    return late + values(p.positive, start_percent=0.0, end_percent=0.4)


ARRANGEMENTS = {
    "alone": lambda p: (p.grounded, p.negative),
    "combined": lambda p: (p.grounded + small.conditioning(3), p.negative),
    "combined the other way": lambda p: (small.conditioning(3) + p.grounded, p.negative),
    "boxes in the negative too": lambda p: (p.grounded, p.boxes([p.second], to=p.negative)),
    "boxes in the negative alone": lambda p: (p.positive, p.boxes([p.second], to=p.negative)),
    "for a part of the run": lambda p: (ranged(p), p.negative),
    "in an area": lambda p: (values(p.grounded, area=(8, 8, 2, 6)) + p.positive, p.negative),
    "in a mask's bounds": lambda p: (
        values(p.grounded, mask=half_mask(), mask_strength=1.0, set_area_to_bounds=True)
        + p.positive,
        p.negative,
    ),
}


def half_mask():
    mask = torch.zeros(1, 8 * SIZE[0], 8 * SIZE[1])
    mask[:, :, : 4 * SIZE[1]] = 1
    return mask


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_a_plain_ksampler_gives_the_latent_of_the_schedule_node(p, name, cfg):
    positive, negative = ARRANGEMENTS[name](p)
    expected = p.sample(schedule(p), positive, negative, cfg=cfg)
    assert torch.equal(p.sample(p.model, positive, negative, cfg=cfg), expected)
    bare = [[text, {k: v for k, v in c.items() if k != "control"}] for text, c in positive]
    if cfg > 1 or name != "boxes in the negative alone":
        assert not torch.equal(p.sample(p.model, bare, p.negative, cfg=cfg), expected)


def test_every_guider_gives_the_latent_of_the_schedule_node(p):
    from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG

    def basic(model):
        guider = Guider_Basic(model)
        guider.set_conds(p.grounded)
        return guided(guider, p)

    def dual(model):
        guider = Guider_DualCFG(model)
        guider.set_conds(p.grounded, p.positive, p.negative)
        guider.set_cfg(7.5, 2.0)
        return guided(guider, p)

    for run in (basic, dual):
        assert torch.equal(run(p.model), run(schedule(p)))


@pytest.mark.parametrize("order", ["positive first", "negative first"])
def test_who_is_positive_is_known_and_not_guessed(p, order):
    import comfy.samplers

    class Reversed(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            conds = [self.conds["positive"], self.conds["negative"]]
            if order == "negative first":
                a, b = comfy.samplers.calc_cond_batch(
                    self.inner_model, conds[::-1], x, timestep, model_options
                )
                return a + 7.5 * (b - a)
            a, b = comfy.samplers.calc_cond_batch(
                self.inner_model, conds, x, timestep, model_options
            )
            return b + 7.5 * (a - b)

    guider = Reversed(p.model)
    guider.set_conds(p.grounded, p.negative)
    got = guided(guider, p)
    expected = p.sample(schedule(p), p.grounded)
    assert relative(got, expected) < 1e-5


def test_before_anything_is_active_the_negative_is_not_grounded_either(p):
    """Boxes for the second half of a run, whose first steps alone are grounded."""
    late = values(p.grounded, start_percent=0.5, end_percent=1.0)
    early = values(p.positive, start_percent=0.0, end_percent=0.5)
    bare = values(p.positive, start_percent=0.5, end_percent=1.0) + early
    model = schedule(p, 0.3)
    expected = p.sample(model, bare, steps=6)
    assert torch.equal(p.sample(model, late + early, steps=6), expected)


def test_the_message_for_another_kind_of_model_comes_without_a_schedule_node_too(p):
    model = p.model.clone()
    unet = model.model.diffusion_model
    model.add_object_patch("diffusion_model", torch.nn.Identity())
    assert model.get_model_object("diffusion_model") is not unet
    blocks = unet.input_blocks
    del unet.input_blocks
    try:
        for each in (p.model, schedule(p)):
            with pytest.raises(GligenError, match="SD 1.x, SD 2.x and SDXL"):
                p.sample(each, p.grounded)
    finally:
        unet.input_blocks = blocks


# A carrier is carried as a ControlNet is


def test_a_dynamic_model_is_not_asked_for_a_second_copy(p):
    import comfy.samplers

    class Dynamic(type(p.model)):
        asked = 0

        def is_dynamic(self):
            return True

        def get_non_dynamic_delegate(self):
            Dynamic.asked += 1
            return self

    model = p.model.clone()
    model.__class__ = Dynamic
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(p.grounded, p.negative)
    assert Dynamic.asked == 0


def fake_controlnet():
    import comfy.controlnet

    class Fake(comfy.controlnet.ControlBase):
        calls = 0

        def get_control(self, x, t, cond, batched, options):
            Fake.calls += 1
            before = self.previous_controlnet
            before = before and before.get_control(x, t, cond, batched, options)
            middle = torch.linspace(-1, 1, 128).view(1, -1, 1, 1).expand(len(x), -1, 1, 1)
            control = {"input": [], "middle": [middle.clone()], "output": []}
            return self.control_merge(control, before, x.dtype)

        def copy(self):
            copied = Fake()
            self.copy_to(copied)
            return copied

    return Fake


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_controlnet_before_or_after_the_boxes_costs_no_call_more(p, order):
    import nodes as host

    fake = fake_controlnet()
    calls = []
    hook = p.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    image = torch.zeros(1, 96, 160, 3)
    apply = host.ControlNetApplyAdvanced().apply_controlnet
    if order == "before":
        positive, negative = apply(p.positive, p.negative, fake(), image, 1.0, 0.0, 1.0)
        positive = p.boxes([p.first, p.second], to=positive)
    else:
        positive, negative = apply(p.grounded, p.negative, fake(), image, 1.0, 0.0, 1.0)
    got = p.sample(p.model, positive, negative)
    hook.remove()
    assert (len(calls), fake.calls) == (2, 2)
    assert torch.equal(got, p.sample(schedule(p), positive, negative))
    assert not torch.equal(got, p.sample(p.model, p.grounded))


def test_a_conditioning_is_copied_and_saved_without_weights(p):
    expected = p.sample(p.model, p.grounded)
    file = io.BytesIO()
    torch.save(p.grounded, file)
    assert len(file.getvalue()) < 500_000
    file.seek(0)
    again = torch.load(file, weights_only=True)
    for copied in (copy.deepcopy(p.grounded), pickle.loads(pickle.dumps(p.grounded)), again):
        assert small.entries(copied)[0].gligen is p.gligen.model
        assert torch.equal(p.sample(p.model, copied), expected)


def test_a_gligen_without_a_file_says_so_where_its_conditioning_is_saved(p):
    tensors = small.gligen_tensors(p.gligen.model.net.widths)
    nameless = p.boxes([p.first], gligen=small.gligen(tensors))
    with pytest.raises(GligenError, match="GLIGEN Model Loader"):
        pickle.dumps(nameless)


def test_a_file_that_is_loaded_twice_is_one_model(p):
    from gligen_pack.nodes.seam import gligens

    again = gligens.load(str(p.file), "another name").patcher
    assert again is p.gligen
    chained = p.boxes([p.second], to=p.boxes([p.first]), gligen=again)
    assert torch.equal(p.sample(p.model, chained), p.sample(p.model, p.grounded))


def test_a_sampler_that_knows_no_wrappers_is_told_of(p):
    with pytest.raises(GligenError, match="GLIGEN KSampler"):
        p.grounded[0][1]["control"].get_control(None, None, None, None, None)


# One run, one object


@pytest.fixture
def runs(p, monkeypatch):
    """Weak references to the runs of a test."""
    from gligen_pack.nodes.seam import patch

    real, found = patch.Run, []

    def made(*args):
        run = real(*args)
        found.append(weakref.ref(run))
        return run

    monkeypatch.setattr(patch, "Run", made)
    return found


@pytest.mark.parametrize("end", ["done", "error", "interrupt"])
@pytest.mark.parametrize("scheduled", [False, True])
def test_nothing_stays_of_a_run_however_it_ends(p, runs, end, scheduled):
    import comfy.model_management as management

    errors = {"error": RuntimeError, "interrupt": management.InterruptProcessingException}

    def stop(step, *_):
        if step == 1 and end in errors:
            raise errors[end]

    model = schedule(p) if scheduled else p.model
    before = repr(model.model_options)
    try:
        p.sample(model, p.grounded, steps=3, callback=stop)
    except BaseException as error:  # the host's interrupt is no Exception
        assert type(error) is errors[end]
    gc.collect()
    assert len(runs) == 1 and runs[0]() is None
    assert repr(model.model_options) == before
    assert torch.equal(p.sample(p.model, p.positive), p.plain)


def test_an_interrupted_run_leaves_nothing_for_one_of_another_type_or_size(p):
    import comfy.model_management as management

    def stop(*_):
        raise management.InterruptProcessingException

    grounded = p.boxes([p.first])
    with pytest.raises(management.InterruptProcessingException):
        p.sample(p.model, grounded, callback=stop)
    fresh = p.boxes([p.first])
    for size in ((16, 8), SIZE):
        assert torch.equal(
            p.sample(p.model, grounded, size=size, batch=2),
            p.sample(p.model, fresh, size=size, batch=2),
        )
    half = p.model.clone()
    half.set_model_compute_dtype(torch.bfloat16)
    assert torch.equal(p.sample(half, grounded), p.sample(half, p.boxes([p.first])))


def test_two_samplers_in_two_threads_share_a_conditioning(p):
    import comfy.sample
    import comfy.samplers

    models = p.model, small.sd15()
    expected = [p.sample(m, p.grounded, seed=seed) for seed, m in enumerate(models)]
    latent = torch.zeros(1, 4, *SIZE)
    noises = [comfy.sample.prepare_noise(latent, seed) for seed in range(2)]
    found = {}

    def run(number):
        guider = comfy.samplers.CFGGuider(models[number])
        guider.set_conds(p.grounded, p.negative)
        guider.set_cfg(7.5)
        sampling = models[number].get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 2)
        with torch.inference_mode():
            found[number] = guider.sample(
                noises[number], latent, comfy.samplers.sampler_object("euler"), sigmas,
                disable_pbar=True, seed=number,
            )  # fmt: skip

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(found[i], e) for i, e in enumerate(expected)] == [True, True]


# Which pictures


def test_what_a_frame_has_not_it_has_not(p):
    noise = torch.randn(3, 4, *SIZE, generator=torch.manual_seed(4))
    frames = p.boxes([p.first, p.second], [p.second], [])
    together = with_noise(p, frames, noise)
    for i, boxes in enumerate(([p.first, p.second], [p.second])):
        alone = with_noise(p, p.boxes(boxes), noise[i : i + 1])
        assert relative(together[i : i + 1], alone) < 1e-5
    assert relative(together[2:], with_noise(p, p.boxes([p.second]), noise[2:])) > 1e-3


def with_noise(p, positive, noise, seed=None, **kwargs):
    import comfy.sample

    with torch.inference_mode():
        return comfy.sample.sample(
            p.model, noise, 2, 7.5, "euler", "normal", positive, p.negative,
            torch.zeros_like(noise), disable_pbar=True, seed=seed, **kwargs,
        )  # fmt: skip


def test_pictures_that_are_taken_from_a_batch_keep_their_own_boxes(p):
    """The host's LatentFromBatch says in batch_index which they are, and a sampler sees it by the noise."""
    import comfy.sample

    whole = torch.zeros(4, 4, *SIZE)
    frames = p.boxes([p.first], [p.second], [p.first, p.second], [p.second])
    together = with_noise(p, frames, comfy.sample.prepare_noise(whole, 5), seed=5)
    for indices in ([2, 3], [1], [3, 0]):
        noise = comfy.sample.prepare_noise(whole[: len(indices)], 5, indices)
        apart = with_noise(p, frames, noise, seed=5)
        assert relative(apart, together[indices]) < 1e-5


def test_fewer_pictures_whose_noise_tells_nothing_are_told_of(p, caplog):
    frames = p.boxes([p.first], [p.second], [p.second])
    for noise, told in ((torch.zeros(2, 4, *SIZE), 1), (torch.zeros(3, 4, *SIZE), 0)):
        caplog.clear()
        with_noise(p, frames, noise, seed=5)
        assert caplog.text.count("known by their noise") == told


def test_to_look_for_the_pictures_leaves_the_random_numbers_as_they_are(p):
    from gligen_pack.nodes.seam.tags import pictures_of

    before = torch.random.get_rng_state()
    pictures_of(torch.randn(1, 4, 4, 4), 3, 8)
    torch.randn(1, 4, 4, 4)
    after = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    assert torch.equal(after, torch.random.get_rng_state())


@pytest.mark.parametrize("overlap, length", [(1, 3), (0, 2)])
def test_context_windows_keep_each_pictures_own_boxes(p, overlap, length):
    windows = pytest.importorskip("comfy.context_windows")
    import inspect

    handler = windows.IndexListContextHandler
    options = {
        "context_schedule": windows.get_matching_context_schedule("standard_static"),
        "fuse_method": windows.get_matching_fuse_method("pyramid"),
        "context_length": length, "context_overlap": overlap, "context_stride": 1,
        "closed_loop": False, "dim": 0,
    }  # fmt: skip
    known = inspect.signature(handler.__init__).parameters
    model = p.model.clone()
    model.model_options["context_handler"] = handler(
        **{k: v for k, v in options.items() if k in known}
    )
    frames = p.boxes([p.first], [p.second], [p.first, p.second], [p.second], [p.first])
    whole = p.sample(p.model, frames, batch=5)
    assert relative(p.sample(model, frames, batch=5), whole) < 1e-5


# Which region


def tiled(cut_conds: bool):
    """A wrapper that runs the model on the left and the right half of each latent."""

    def halves(t):
        middle = t.shape[-1] // 2
        return t[..., :middle], t[..., middle:]

    def wrapper(apply, args):
        c = args["c"]
        out = []
        for number, x in enumerate(halves(args["input"])):
            mine = {
                k: halves(v)[number] if cut_conds and torch.is_tensor(v) and v.ndim == 4 else v
                for k, v in c.items()
            }
            out.append(apply(x, args["timestep"], **mine))
        return torch.cat(out, -1)

    return wrapper


def test_a_tile_gets_the_part_of_the_layout_that_lies_in_it(p, monkeypatch):
    from gligen_pack.gligen_ops.tokenizers.box import BoxTokenizer

    seen = []
    inputs = BoxTokenizer.inputs
    monkeypatch.setattr(
        BoxTokenizer, "inputs", lambda self, e: seen.append([x.box for x in e]) or inputs(self, e)
    )
    model = p.model.clone()
    model.set_model_unet_function_wrapper(tiled(cut_conds=True))
    across = PhraseBox("a bridge", Box(0.25, 0.1, 1.0, 0.9))
    p.sample(model, p.boxes([p.first, p.second, across]), steps=1)
    left = [Box(0.0, 0.25, 1.0, 0.75), Box(0.5, 0.1, 1.0, 0.9)]
    right = [Box(0.0, 0.125, 0.75, 1.0), Box(0.0, 0.1, 1.0, 0.9)]
    assert [boxes for boxes in seen if boxes] == [left, right]


def test_a_latent_that_is_cut_by_somebody_unknown_is_told_of_and_not_grounded(p, caplog):
    model = p.model.clone()
    model.set_model_unet_function_wrapper(tiled(cut_conds=False))
    got = p.sample(model, p.grounded)
    assert caplog.text.count("cuts the latent into pieces") == 1
    assert torch.isfinite(got).all() and not torch.equal(got, p.sample(p.model, p.grounded))


def test_a_box_in_an_area_is_the_box_of_that_part_of_the_picture(p):
    from gligen_pack.nodes.seam.conditioning import entities_in

    lower = values(p.boxes([p.first]), area=(6, 20, 6, 0))
    (entity,) = entities_in(lower, SIZE, 0)
    assert entity.box == Box(0.0, 0.625, 0.5, 0.875)
    share = values(p.boxes([p.first]), area=("percentage", 0.5, 1.0, 0.5, 0.0))
    assert next(entities_in(share, SIZE, 0)).box == entity.box
