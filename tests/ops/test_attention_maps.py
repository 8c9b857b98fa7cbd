"""Where a gated layer looks, against softmaxes written out."""

import pytest
import torch
from gligen_pack.gligen_ops.layers.attention_maps import attention_weights, to_grounding_tokens
from reference import relative

PLACES, TOKENS = 6, 3


def by_hand(q, k, heads, mask):
    """The mean over heads of softmax(q kᵀ / √d + mask), in float64."""
    total = 0
    for one, other in zip(q.double().chunk(heads, -1), k.double().chunk(heads, -1), strict=True):
        logits = one @ other.transpose(1, 2) / one.shape[-1] ** 0.5
        total = total + (logits + mask.double()).softmax(-1)
    return total / heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_what_is_noted_is_the_softmax_over_places_and_tokens(heads, dtype):
    torch.manual_seed(0)
    q, k = (3 * torch.randn(2, n, 8).to(dtype) for n in (PLACES, PLACES + TOKENS))
    mask = torch.zeros(2, 1, PLACES + TOKENS)
    expected = by_hand(q, k, heads, mask)
    assert relative(attention_weights(q, k, heads), expected) < 1e-5
    mask[1, :, PLACES + 1] = -1.5  # of the second row alone
    weights = attention_weights(q, k, heads, mask)
    assert weights.dtype == torch.float32
    masked = by_hand(q, k, heads, mask)
    assert relative(weights, masked) < 1e-5
    assert relative(expected[1], masked[1]) > 0.01


def test_of_gated_sa_what_each_place_pays_to_each_token_is_taken():
    weights = torch.rand(2, PLACES, PLACES + TOKENS)
    paid = to_grounding_tokens(weights, PLACES, TOKENS)
    assert torch.equal(paid, weights[:, :, PLACES:].transpose(1, 2))


def test_of_gated_ca_all_that_the_places_pay_is_to_tokens():
    weights = torch.rand(2, PLACES, TOKENS)
    assert torch.equal(to_grounding_tokens(weights, PLACES, TOKENS), weights.transpose(1, 2))


def test_of_gated_sa2_what_a_token_pays_is_relative_to_the_place_that_it_pays_most():
    weights = torch.rand(2, TOKENS, PLACES + TOKENS)
    weights[1, 2, :PLACES] = 0
    weights[..., PLACES:] += 1  # what tokens pay to each other does not count
    paid = to_grounding_tokens(weights, PLACES, TOKENS)
    assert paid.shape == (2, TOKENS, PLACES)
    for row, token in ((0, 0), (0, 1), (1, 0)):
        of_token = weights[row, token, :PLACES]
        torch.testing.assert_close(paid[row, token], of_token / of_token.max())
    assert not paid[1, 2].any()
