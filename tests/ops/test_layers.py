"""The gated layers against the formulas in float64, and gatedSA against diffusers."""

import math

import pytest
import reference
import small
import torch
from gligen_pack.gligen_ops.layers.gated_cross import GatedCrossAttention
from gligen_pack.gligen_ops.layers.gated_grid import GatedGridAttention
from gligen_pack.gligen_ops.layers.gated_self_attention import GatedSelfAttention
from reference import relative

TOLERANCE = 1e-5
FORMULAS = {
    GatedSelfAttention: reference.gated_self_attention,
    GatedGridAttention: reference.gated_grid_attention,
    GatedCrossAttention: reference.gated_cross_attention,
}


def doubled(module):
    return {k: v.double() for k, v in module.state_dict().items()}


def make(kind, width=64, token_width=768, heads=8, tokens=36):
    module = small.randomise(kind(width, token_width), seed=1, gate=0.7)
    torch.manual_seed(2)
    return module, heads, torch.randn(3, 25, width), torch.randn(3, tokens, token_width)


@pytest.fixture(params=[(64, 768, 8), (128, 96, 2)], ids=["sd1 heads", "64-wide heads"])
def sizes(request):
    return request.param


@pytest.fixture
def layer(sizes):
    return make(GatedSelfAttention, *sizes)


@torch.no_grad()
def run(module, heads, v, tokens, beta=1.0, bias=None, grid=None):
    keys = module.keys(tokens)._replace(bias=bias)
    return module(v, keys, heads, module.gates(), beta, grid=grid)


@pytest.mark.parametrize("beta", [1.0, 0.4, 0.0])
@pytest.mark.parametrize("kind", FORMULAS)
def test_gated_layers_are_their_formulas(kind, sizes, beta):
    module, heads, v, tokens = made = make(kind, *sizes)
    expected = FORMULAS[kind](doubled(module), v.double(), tokens.double(), heads, beta)
    assert relative(run(*made, beta), expected) < TOLERANCE
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


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("closed", ["alpha_attn", "alpha_dense"])
@pytest.mark.parametrize("beta", [1.0, 0.3, 2.0])
def test_each_gate_is_of_its_own_part_and_beta_is_in_both(kind, closed, beta):
    """γ of another size in each, and one of them closed: the other's part is all that is added."""
    module, heads, v, tokens = made = make(kind)
    torch.nn.init.constant_(module.alpha_attn, 0.9)
    torch.nn.init.constant_(module.alpha_dense, -0.2)
    torch.nn.init.zeros_(getattr(module, closed))
    expected = FORMULAS[kind](doubled(module), v.double(), tokens.double(), heads, beta)
    assert relative(run(*made, beta) - v, expected - v) < 10 * TOLERANCE


@pytest.mark.parametrize("kind", FORMULAS)
def test_rows_of_a_batch_do_not_see_each_other(kind):
    module, heads, v, tokens = made = make(kind)
    order = [2, 0, 1]
    together = run(*made)
    assert relative(run(module, heads, v[order], tokens[order]), together[order]) < TOLERANCE
    for i in range(3):
        alone = run(module, heads, v[i : i + 1], tokens[i : i + 1])
        assert relative(alone, together[i : i + 1]) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", FORMULAS)
def test_layers_in_half_precision_are_their_formulas_with_gates_of_full(kind, dtype):
    module, heads, v, tokens = make(kind)
    torch.nn.init.constant_(module.alpha_attn, 0.123)
    module, v, tokens = module.to(dtype), v.to(dtype), tokens.to(dtype)
    for gate, alpha in zip(module.gates(), (module.alpha_attn, module.alpha_dense), strict=True):
        assert gate.dtype == torch.float32
        assert gate.item() == pytest.approx(math.tanh(alpha.item()), rel=1e-6)
    expected = FORMULAS[kind](doubled(module), v.double(), tokens.double(), heads, 0.5)
    bias = None if kind is GatedGridAttention else torch.zeros(3, 1, 36)  # float32, as it is made
    out = run(module, heads, v, tokens, 0.5, bias=bias)
    assert out.dtype == dtype
    assert relative(out, expected) < (0.003 if dtype == torch.float16 else 0.02)


@pytest.mark.parametrize("kind", FORMULAS)
def test_closed_gates_change_no_bit(kind):
    module, heads, v, tokens = made = make(kind)
    torch.nn.init.zeros_(module.alpha_attn)
    torch.nn.init.zeros_(module.alpha_dense)
    assert torch.equal(run(*made), v)


@pytest.mark.parametrize("kind", [GatedSelfAttention, GatedCrossAttention])
def test_bias_log_2_counts_a_token_twice(kind):
    module, heads, v, tokens = made = make(kind)
    bias = torch.zeros(3, 1, 36)
    bias[:, :, 4] = math.log(2)
    twice = torch.cat([tokens, tokens[:, 4:5]], dim=1)
    assert relative(run(*made, bias=bias), run(module, heads, v, twice)) < TOLERANCE
    assert relative(run(*made), run(module, heads, v, twice)) > 10 * TOLERANCE


@pytest.mark.parametrize("kind", [GatedSelfAttention, GatedCrossAttention])
def test_bias_log_0_takes_a_token_away_where_it_is_set(kind):
    module, heads, v, tokens = made = make(kind)
    bias = torch.zeros(3, 1, 36)
    bias[1, :, 4:] = bias[2, :, :30] = -math.inf
    biased = run(*made, bias=bias)
    for row, left in enumerate((tokens, tokens[:, :4], tokens[:, 30:])):
        assert relative(biased[row], run(module, heads, v, left)[row]) < TOLERANCE


def test_only_the_tokens_that_are_kept_get_a_query():
    for kind, kept in {
        GatedSelfAttention: 25,
        GatedCrossAttention: 25,
        GatedGridAttention: 36,
    }.items():
        made = make(kind)
        seen = []
        made[0].attn.to_q.register_forward_hook(
            lambda m, i, out, seen=seen: seen.append(out.shape[1])
        )
        run(*made)
        assert seen == [kept], kind


def test_keys_and_values_of_grounding_tokens_are_made_once_for_a_run(layer):
    module, heads, v, tokens = layer
    keys = module.keys(tokens)
    seen = []
    module.linear.register_forward_hook(lambda *_: seen.append(1))
    module(v, keys, heads, module.gates())
    assert not seen


def test_gated_sa2_lays_its_tokens_over_a_grid_that_is_no_square():
    module, heads, v, tokens = make(GatedGridAttention)
    v = torch.randn(3, 4 * 7, 64)
    expected = reference.gated_grid_attention(
        doubled(module), v.double(), tokens.double(), heads, grid=(4, 7)
    )
    out = run(module, heads, v, tokens, grid=(4, 7))
    assert relative(out, expected) < TOLERANCE
    assert relative(run(module, heads, v, tokens, grid=(7, 4)), expected) > 10 * TOLERANCE


def test_gated_sa2_reads_grounding_and_visual_tokens_row_by_row():
    """With one token put in, the visual tokens near its place change most."""
    module, heads, v, tokens = make(GatedGridAttention)
    torch.nn.init.zeros_(module.alpha_dense)
    v = torch.zeros(3, 12 * 24, 64)
    other = tokens.clone()
    other[:, 1 * 6 + 4] += 10  # of 6 × 6: row 1, column 4
    keys, changed = (module.keys(t) for t in (tokens, other))
    keys = keys._replace(query=changed.query)  # only what it asks for changes
    with torch.no_grad():
        moved = module(v, keys, heads, module.gates(), grid=(12, 24)) - run(
            module, heads, v, tokens, grid=(12, 24)
        )
    row, column = divmod(moved.norm(dim=-1)[0].argmax().item(), 24)
    assert (row // 2, column // 4) == (1, 4)
