"""A model that the host compiles is grounded as one that it does not."""

import pytest
import small
import torch
from rig import Rig, picture, relative

BOX, OTHER_BOX = (0.1, 0.2, 0.6, 0.4), (0.3, 0.1, 0.2, 0.7)


@pytest.fixture(scope="module")
def rig(pack):
    """On the least UNet that has blocks of each sort: to compile one takes seconds."""
    import comfy.supported_models

    least = {
        **small.SHORT,
        "channel_mult": [1],
        "num_res_blocks": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [1, 0],
    }
    return Rig(pack, small.model_of(comfy.supported_models.SD15, least))


@pytest.fixture
def compiled(rig, monkeypatch):
    """The model as the host's TorchCompileModel gives it, but for the time that a real backend takes."""
    import comfy.ldm.modules.attention as host
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    # The host's attention for CPUs alone asks for free memory, at which any graph breaks.
    monkeypatch.setattr(host, "optimized_attention", host.attention_pytorch)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = rig.model.clone(disable_dynamic=True)
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=model, backend="eager", options=options)
    yield model
    torch._dynamo.reset()


def test_a_compiled_model_is_grounded_in_the_steps_that_the_schedule_says_and_in_no_other(
    rig, compiled
):
    box = rig.text_box("a cat", *BOX)

    def run(model, positive=box, **schedule):
        return rig.sample(rig.schedule(model, **schedule), positive, steps=3, cfg=4.0)

    plain = rig.plain(steps=3, cfg=4.0)
    assert relative(run(rig.model), plain) > 0.01
    # In an order in which a graph made for one of them would be taken for the next.
    for tau in (0.4, 1.0, 0.0, 0.7):
        assert relative(run(compiled, tau=tau), run(rig.model, tau=tau)) < 1e-5
    falling = {"tau": 0.4, "decay": 0.6}
    assert relative(run(compiled, **falling), run(rig.model, **falling)) < 1e-5
    other = rig.text_box("a dog", *OTHER_BOX)
    assert relative(run(compiled, other), run(rig.model, other)) < 1e-5
    two = rig.text_box("a dog", *OTHER_BOX, to=box, strength=0.3)
    assert relative(run(compiled, two), run(rig.model, two)) < 1e-5
    assert torch.equal(rig.sample(compiled, rig.prompt, steps=3, cfg=4.0), plain)


def test_the_gated_layers_are_part_of_a_compiled_models_graph(rig, compiled):
    """One graph for the UNet as it is and one for it with gated layers, no break in either, and neither
    made anew for another β."""
    model = rig.schedule(compiled, tau=0.4, decay=0.4)
    for _ in range(2):
        rig.sample(model, rig.text_box("a cat", *BOX), steps=5, cfg=4.0)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2


def test_what_is_kept_of_a_compiled_model_is_right_too(rig, compiled):
    box = rig.text_box("a cat", *BOX)
    got, expected = (
        rig.sample(rig.schedule(model, refresh_every=2), box, steps=3, cfg=4.0)
        for model in (compiled, rig.model)
    )
    assert relative(got, expected) < 1e-5


def test_what_is_recorded_of_a_compiled_model_is_right_too(rig, compiled):
    def run(model):
        model, attention = rig.node("GligenAttention", model=rig.schedule(model))
        latent = rig.sample(model, rig.text_box("a cat", *BOX), steps=2, cfg=4.0)
        maps = rig.node("GligenAttentionMaps", attention=attention, image=picture())
        return latent, *maps

    for got, expected in zip(run(compiled), run(rig.model), strict=True):
        assert relative(got, expected) < 1e-3  # pictures are of whole numbers
