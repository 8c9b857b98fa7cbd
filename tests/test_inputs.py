"""No input of any node is without effect: two values, two results."""

import shutil
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import small
import torch
import trials
from files import random_text_box_tensors, save_pruned, scaled
from gligen_pack.gligen_ops.model import Block
from safetensors.torch import load_file
from test_nodes import CONTRACT, NODES

INPUTS = [
    (node, word.split()[0])
    for node, (required, optional, _) in CONTRACT.items()
    for part in (required, optional)
    for word in part.split(", ")
    if word
]


@pytest.fixture(scope="module")
def trial(rig):
    return cache(lambda node: trials.trial(rig, node))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """models/gligen with files of two GLIGENs and a projection, and an empty output folder."""
    import folder_paths

    models, output = tmp_path / "gligen", tmp_path / "output"
    models.mkdir()
    for seed, name in enumerate(("one", "other")):
        widths = scaled({Block("middle", 0, 0): 1280}, 40)
        save_pruned(models / f"{name}.safetensors", random_text_box_tensors(widths, seed=seed))
    torch.save(torch.eye(768).roll(1, 0), models / "projection_other.pt")
    found = ([str(models)], {".pt", ".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "gligen", found)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "output_directory", str(output))
    return SimpleNamespace(models=models, output=output)


@pytest.fixture(scope="module")
def before():
    """What each node shows for what it is given, as far as that was asked for."""
    return {}


@pytest.fixture
def shown(rig, folders, monkeypatch):
    """A node's outputs as something that can be compared: pictures, latents of a run, files."""

    def weights(gligen):
        return {k: v.sum() for k, v in gligen.model.state_dict().items()}

    def ran(model, positive, steps=1, cfg=1.0, **kwargs):
        return rig.sample(model, positive, steps=steps, cfg=cfg, **kwargs)

    grounded = rig.text_box("a cat", *trials.BOX.values())

    def of_schedule(model):
        return ran(model, grounded, steps=4, cfg=4.0)

    def of_inpainting(positive, latent):
        run = ran(
            rig.schedule(), positive, latent=latent["samples"], noise_mask=latent["noise_mask"]
        )
        return run, latent["samples"], latent["noise_mask"]

    def of_files():
        files = sorted(folders.output.rglob("*.safetensors"))
        return {str(f.relative_to(folders.output)): load_file(f) for f in files}

    special = {
        "GligenInpaint": of_inpainting,
        "GligenMove": lambda positive: ran(rig.schedule(), positive, batch=2),
        "GligenBetaSchedule": of_schedule,
        "GligenKSampler": lambda latent: latent["samples"],
        "GligenAttention": lambda model, _: ran(model, grounded),
        "GligenModelLoader": weights,
        "GligenModelSave": of_files,
        "GligenDemoModel": lambda *made: weights(made[3]),
    }
    told = []
    server = SimpleNamespace(instance=SimpleNamespace(send_progress_text=lambda *a: told.append(a)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=server))
    monkeypatch.setattr(
        rig.nodes["GligenModelLoader"], "hidden", SimpleNamespace(unique_id="7"), raising=False
    )

    def show(node, **inputs):
        shutil.rmtree(folders.output, ignore_errors=True)
        with torch.inference_mode():
            out = rig.node(node, **inputs) or ()
        if node in special:
            return special[node](*out)
        if CONTRACT[node][2] == "CONDITIONING":
            return ran(rig.schedule(), *out)
        return out

    show.told = told
    return show


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("node", NODES)
def test_every_input_of_a_node_has_two_values_here(rig, trial, node):
    inputs = {i.id for i in rig.nodes[node].GET_SCHEMA().inputs}
    given, others = trial(node)
    assert set(given) == set(others) == inputs == {name for n, name in INPUTS if n == node}


@pytest.mark.parametrize("node, name", INPUTS, ids=map(".".join, INPUTS))
def test_another_value_of_an_input_gives_another_result(trial, shown, before, node, name):
    if name == "curve" and not hasattr(pytest.importorskip("comfy_api.input"), "CurveInput"):
        pytest.skip("a host without curves")
    given, others = trial(node)
    value, extra = others[name], {}
    if isinstance(value, trials.Where):
        value, extra = value.value, value.others
    if not extra and node not in before:
        before[node] = shown(node, **given)
    first = shown(node, **given | extra) if extra else before[node]
    assert not same(first, shown(node, **given | extra | {name: value}))


@pytest.mark.parametrize("node", NODES)
def test_the_same_values_give_the_same_result(trial, shown, before, node):
    """Or the test above would pass by chance."""
    given, _ = trial(node)
    first = before[node] if node in before else shown(node, **given)
    assert same(first, shown(node, **given))


def test_the_loader_shows_what_it_loaded_on_its_node(shown):
    shown("GligenModelLoader", gligen_name="one.safetensors")
    ((text, node),) = shown.told
    assert node == "7" and text == "text box (gatedSA), 1 gated layer"


def test_the_sampler_node_is_the_schedule_node_and_the_hosts_ksampler(rig, trial):
    """With every input at a value of its own."""
    import nodes as host

    given, _ = trial("GligenKSampler")
    given = {**given, "strength": 0.7, "refresh_every": 2, "negative_grounding": "same"}
    names = set(trial("GligenBetaSchedule")[0]) - {"curve", "model"}
    schedule = {k: v for k, v in given.items() if k in names}
    rest = {k: v for k, v in given.items() if k not in names}
    with torch.inference_mode():
        (got,) = rig.node("GligenKSampler", **given)
        (expected,) = host.KSampler().sample(**{**rest, "model": rig.schedule(**schedule)})
    assert torch.equal(got["samples"], expected["samples"])


def test_negative_groundings_are_three_different_things(rig):
    positive = rig.text_box("a cat", *trials.BOX.values())
    null, same_, none = (
        rig.sample(rig.schedule(negative_grounding=name), positive, small.conditioning(2), cfg=4.0)
        for name in ("null", "same", "none")
    )
    assert not same(null, same_) and not same(null, none) and not same(same_, none)
