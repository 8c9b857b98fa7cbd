"""GLIGEN on the host's SD 2.x and SDXL: several blocks a transformer, 64-wide heads; and its weights in
the host's hands."""

import pytest
import reference
import small
import torch
from gligen_pack.benchmark import unets

SD20 = {
    **small.SD15,
    "model_channels": 64,
    "context_dim": 1024,
    "use_linear_in_transformer": True,
}
SDXL = {
    **unets.SDXL,
    "model_channels": 64,
    "transformer_depth": [0, 0, 2, 2, 3, 3],
    "transformer_depth_middle": 3,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 3, 3, 3],
}
KINDS = {"SD15": small.SD15, "SD20": SD20, "SDXL": SDXL}


@pytest.fixture(scope="module", params=KINDS)
def base(request, pack):
    import comfy.supported_models

    kind = request.param
    return kind, small.model_of(getattr(comfy.supported_models, kind), KINDS[kind])


def test_blocks_are_those_in_which_the_host_calls_a_patch(base):
    from gligen_pack.gligen_ops.model import blocks_of

    kind, model = base
    called = {}

    def middle_patch(v, extra):
        called[(*extra["block"], extra["block_index"])] = v.shape[-1]
        return v

    model = model.clone()
    model.set_model_patch(middle_patch, "middle_patch")
    width = KINDS[kind]["context_dim"]
    conds = [small.conditioning(n, width, pooled_output=torch.zeros(1, 1280)) for n in (1, 2)]
    small.sample(model, *conds, steps=1, size=(32, 32))
    assert list(blocks_of(model.model.diffusion_model).items()) == list(called.items())
    assert len(called) == {"SD15": 16, "SD20": 16, "SDXL": 2 * 2 + 2 * 3 + 3 + 3 * 2 + 3 * 3}[kind]


def test_each_block_gets_its_own_layer_with_the_hosts_heads(base):
    from gligen_pack.gligen_ops.entities import PhraseBox
    from gligen_pack.gligen_ops.model import blocks_of
    from gligen_pack.gligen_ops.places import Box
    from gligen_pack.nodes.encoders import phrases

    kind, model = base
    widths = blocks_of(model.model.diffusion_model)
    gligen = small.gligen(small.gligen_tensors(widths))
    width = KINDS[kind]["context_dim"]
    positive = small.conditioning(1, width, pooled_output=torch.zeros(1, 1280))
    box = PhraseBox("a red ball", Box(0.1, 0.2, 0.6, 0.9))
    grounded = phrases.ground_boxes(positive, gligen, small.Clip(), [[box]])
    got = small.sample(small.schedule(model), grounded, positive, 2, 1.0)

    entries = small.entries(grounded)
    inputs = gligen.model.net.position_net.inputs([e.at(0) for e in entries])
    tokens = reference.box_tokens(gligen.model.net.position_net.state_dict(), *inputs)
    layers = {b: gligen.model.net.layer(b).state_dict() for b in widths}

    def middle_patch(v, extra):
        block = (*extra["block"], extra["block_index"])
        heads = 8 if kind == "SD15" else v.shape[-1] // 64
        return reference.gated_self_attention(layers[block], v, tokens, heads)

    model = model.clone()
    model.set_model_patch(middle_patch, "middle_patch")
    expected = small.sample(model, positive, positive, 2, 1.0)
    plain = small.sample(base[1], positive, positive, 2, 1.0)
    assert ((got - expected).norm() / expected.norm()).item() < 1e-4
    assert ((plain - expected).norm() / expected.norm()).item() > 1e-3


def test_weights_are_loaded_and_counted_by_the_host(base):
    import comfy.model_management as management
    from gligen_pack.gligen_ops.entities import PhraseBox
    from gligen_pack.gligen_ops.model import blocks_of
    from gligen_pack.gligen_ops.places import Box
    from gligen_pack.nodes.encoders import phrases

    kind, model = base
    tensors = small.gligen_tensors(blocks_of(model.model.diffusion_model))
    tensors = {k: v.half() for k, v in tensors.items()}
    gligen = small.gligen(tensors)
    assert gligen.model_size() == sum(v.numel() * 2 for v in tensors.values())
    width = KINDS[kind]["context_dim"]
    positive = small.conditioning(1, width, pooled_output=torch.zeros(1, 1280))
    box = PhraseBox("a red ball", Box(0.1, 0.2, 0.6, 0.9))
    grounded = phrases.ground_boxes(positive, gligen, small.Clip(), [[box]])
    during = []
    small.sample(
        model, grounded, positive, 1,
        callback=lambda *_: during.extend(m.model for m in management.current_loaded_models),
    )  # fmt: skip
    assert any(m is gligen for m in during)
    weights = gligen.model.net.state_dict().values()
    assert {w.dtype for w in weights} == {torch.float16}
