"""The gated layer and the box tokenizer against the formulas in float64 and against diffusers."""

import pytest
import reference
import small
import torch
from gligen_pack.gligen_ops.box_tokens import BoxTokenizer
from gligen_pack.gligen_ops.fourier import fourier_embedding
from gligen_pack.gligen_ops.gated import GatedSelfAttention

TOLERANCE = 1e-5


def relative(a, b):
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()


def doubled(module):
    return {k: v.double() for k, v in module.state_dict().items()}


@pytest.fixture(params=[(64, 768, 8), (128, 96, 2)], ids=["sd1 heads", "64-wide heads"])
def layer(request):
    width, token_width, heads = request.param
    module = small.randomise(GatedSelfAttention(width, token_width), seed=1, gate=0.7)
    torch.manual_seed(2)
    return module, heads, torch.randn(3, 24, width), torch.randn(3, 30, token_width)


@torch.no_grad()
def run(module, heads, v, tokens, beta=1.0):
    return module(v, module.keys(tokens), heads, module.gates(), beta)


@pytest.mark.parametrize("beta", [1.0, 0.4, 0.0])
def test_gated_layer_is_the_papers_formula(layer, beta):
    module, heads, v, tokens = layer
    expected = reference.gated_self_attention(
        doubled(module), v.double(), tokens.double(), heads, beta
    )
    assert relative(run(*layer, beta), expected) < TOLERANCE
    if beta:
        assert relative(v, expected) > 0.05


def test_gated_layer_is_that_of_diffusers(layer):
    attention = pytest.importorskip("diffusers.models.attention")
    module, heads, v, tokens = layer
    width, token_width = v.shape[-1], tokens.shape[-1]
    theirs = attention.GatedSelfAttentionDense(width, token_width, heads, width // heads)
    theirs.load_state_dict(module.state_dict())
    with torch.no_grad():
        expected = theirs(v, tokens)
    assert relative(run(*layer), expected) < TOLERANCE


def test_closed_gates_change_no_bit(layer):
    module, heads, v, tokens = layer
    torch.nn.init.zeros_(module.alpha_attn)
    torch.nn.init.zeros_(module.alpha_dense)
    assert torch.equal(run(*layer), v)


def test_fourier_embedding_is_the_formula_in_the_checkpoints_order():
    boxes = torch.rand(5, 30, 4)
    assert relative(fourier_embedding(boxes), reference.fourier(boxes.double())) < TOLERANCE
    # Frequency-major: the first eight numbers are the four sines, then the four cosines, of 1 · x.
    x = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert torch.allclose(fourier_embedding(x)[:8], torch.cat([x.sin(), x.cos()]))


@pytest.fixture
def tokenizer():
    torch.manual_seed(3)
    inputs = torch.rand(2, 30, 4), (torch.rand(2, 30) < 0.4).float(), torch.randn(2, 30, 768)
    return small.randomise(BoxTokenizer(768, 768), seed=4), inputs


@torch.no_grad()
def test_box_tokens_are_the_papers_formula(tokenizer):
    module, inputs = tokenizer
    expected = reference.box_tokens(doubled(module), *(t.double() for t in inputs))
    assert relative(module(*inputs), expected) < TOLERANCE


@torch.no_grad()
def test_box_tokens_are_those_of_diffusers(tokenizer):
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    module, (boxes, mask, features) = tokenizer
    theirs = embeddings.GLIGENTextBoundingboxProjection(768, 768)
    theirs.load_state_dict(module.state_dict())
    assert relative(module(boxes, mask, features), theirs(boxes, mask, features)) < TOLERANCE


@torch.no_grad()
def test_an_empty_slot_does_not_show_what_is_written_in_it(tokenizer):
    module, (boxes, mask, features) = tokenizer
    masked = mask == 0
    other = module(boxes, mask, torch.where(masked[..., None], 100.0, features))
    assert torch.equal(module(boxes, mask, features)[masked], other[masked])
