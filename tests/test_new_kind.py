"""A kind of grounding costs a tokenizer and a node: the one of new_kind.py is loaded, sampled, previewed,
watched, tiled and saved with nothing else of the pack knowing of it."""

import copy
import importlib
import io
import sys
from types import SimpleNamespace

import pytest
import small
import torch
from files import random_tensors
from gligen_pack.gligen_ops.errors import GligenError

SIZE = (12, 20)


@pytest.fixture(scope="module")
def p(pack, tmp_path_factory):
    from gligen_pack.gligen_ops.kinds import KINDS
    from gligen_pack.gligen_ops.model import blocks_of
    from gligen_pack.nodes.seam import gligens
    from safetensors.torch import save_file
    from tensors import Tensors

    before = list(KINDS)
    new = importlib.import_module("new_kind")
    model = small.sd15()
    tensors = random_tensors("text box", blocks_of(model.model.diffusion_model), 768, 768, 0, 0.6)
    tensors = {k: v for k, v in tensors.items() if not k.startswith("position_net.")}
    tokenizer = Tensors(3)
    tokenizer.weights("position_net.linears.0", 512, 768 + 32)
    tokenizer.weights("position_net.linears.2", 512, 512)
    tokenizer.weights("position_net.linears.4", 768, 512)
    tokenizer.random("position_net.null_text_feature", 768)
    tokenizer.random("position_net.null_point_feature", 32)
    file = tmp_path_factory.mktemp("points") / "points.safetensors"
    save_file(tensors | tokenizer.tensors, file)
    gligen = gligens.load(str(file), file.name).patcher
    positive, negative = small.conditioning(1), small.conditioning(2)

    def point(text="a red ball", x=0.25, y=0.75, to=positive, strength=1.0):
        node = new.GligenPoint
        return node.execute(to, gligen, small.Clip(), text, x, y, strength).result[0]

    def sample(model, positive, **kwargs):
        return small.sample(model, positive, negative, steps=2, size=SIZE, **kwargs)

    yield SimpleNamespace(**locals())
    KINDS[:] = before
    del sys.modules["new_kind"]


def test_its_file_is_known_by_its_tensors(p):
    assert p.gligen.model.description() == "points (gatedSA), 16 gated layers"


def test_it_grounds_where_it_is_put_and_with_its_strength(p):
    plain, here = p.sample(p.model, p.positive), p.sample(p.model, p.point())
    assert torch.equal(here, p.sample(small.schedule(p.model), p.point()))
    results = [
        plain,
        here,
        p.sample(p.model, p.point(x=0.8)),
        p.sample(p.model, p.point(strength=0.5)),
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])
    assert torch.equal(p.sample(small.schedule(p.model, 0.0), p.point()), plain)


def test_it_is_previewed(p):
    from gligen_pack.nodes.preview import GligenPreview

    (drawn,) = GligenPreview.execute(p.point(), 200, 120).result
    changed = (drawn[0] != drawn[0, 0, 0]).any(-1).nonzero().float()
    assert changed.mean(0).tolist() == pytest.approx([90, 50], abs=2)


def test_it_is_watched_by_its_name(p):
    from gligen_pack.nodes.attention import GligenAttention, GligenAttentionMaps

    model, record = GligenAttention.execute(p.model).result
    p.sample(model, p.point("a blue cube", to=p.point()))
    assert record.names == ["a red ball", "a blue cube"]
    maps, _ = GligenAttentionMaps.execute(record, torch.zeros(1, 96, 160, 3), "all", 0, 9).result
    assert len(maps) == 2


def test_a_tile_without_it_gets_the_null_grounding(p, monkeypatch):
    seen = []
    inputs = p.new.PointTokenizer.inputs
    monkeypatch.setattr(
        p.new.PointTokenizer,
        "inputs",
        lambda self, spots: seen.append([(s.x, s.y) for s in spots]) or inputs(self, spots),
    )

    def halves(apply, args):
        def half(value, number):
            is_map = torch.is_tensor(value) and value.ndim == 4
            return value.chunk(2, -1)[number] if is_map else value

        c = args["c"]
        return torch.cat(
            [
                apply(
                    half(args["input"], n),
                    args["timestep"],
                    **{k: half(v, n) for k, v in c.items()},
                )
                for n in range(2)
            ],
            -1,
        )

    model = p.model.clone()
    model.set_model_unet_function_wrapper(halves)
    p.sample(model, p.point())
    assert [spots for spots in seen if spots] == [[(0.5, 0.75)]]


def test_it_is_copied_and_saved_with_its_conditioning(p):
    expected = p.sample(p.model, p.point())
    file = io.BytesIO()
    torch.save(p.point(), file)
    file.seek(0)
    for again in (copy.deepcopy(p.point()), torch.load(file, weights_only=True)):
        assert torch.equal(p.sample(p.model, again), expected)


def test_more_than_it_has_slots_for_and_another_kinds_model_are_refused(p):
    conditioning = p.positive
    for _ in range(12):
        conditioning = p.point(to=conditioning)
    with pytest.raises(GligenError, match="at most 12 entities.* 13. Remove 1"):
        p.point(to=conditioning)
    from gligen_pack.gligen_ops.entities import PhraseBox
    from gligen_pack.gligen_ops.places import Box
    from gligen_pack.nodes.encoders.phrases import ground_boxes

    with pytest.raises(GligenError, match="is a points model.*text box"):
        ground_boxes(p.positive, p.gligen, small.Clip(), [[PhraseBox("a", Box(0, 0, 1, 1))]])
