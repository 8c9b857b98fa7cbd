"""The linear layers of a GLIGEN, which go another way on a CPU, against PyTorch's own."""

import pytest
import torch
from torch.testing import assert_close

TOKENS = 2, 48, 20


@pytest.fixture(params=[True, False], ids=["by oneDNN", "by the host"])
def linear(pack, request, monkeypatch):
    from gligen_pack.nodes.seam import operations

    monkeypatch.setattr(operations, "ONEDNN_IS_FASTER", request.param)
    torch.manual_seed(0)
    layer = operations.Operations.Linear(20, 40)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer


def expected(layer, tokens):
    weight, bias = (p.to(tokens.dtype) for p in (layer.weight, layer.bias))
    return torch.nn.functional.linear(tokens, weight, bias)


@pytest.mark.parametrize("shape", [TOKENS, TOKENS[1:], TOKENS[2:], (1, 1, 20)])
@torch.inference_mode()
def test_multiplies(linear, shape):
    tokens = torch.randn(shape)
    assert_close(linear(tokens), expected(linear, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_casts_its_weights_to_what_it_is_given(linear, dtype):
    linear.to(dtype)
    tokens = torch.randn(TOKENS)
    assert_close(linear(tokens), expected(linear, tokens), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_takes_tokens_that_lie_across_memory(linear):
    tokens = torch.randn(2, 20, 48).mT
    assert_close(linear(tokens), expected(linear, tokens), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_its_result_lies_as_attention_wants_it(linear):
    assert linear(torch.randn(TOKENS)).is_contiguous()
