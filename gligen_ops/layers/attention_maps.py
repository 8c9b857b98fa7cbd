"""Where a gated layer looks: how much each place of the image attends to each grounding token. After the
analysis of gates and attention in GLIGEN (arXiv 2301.07093), appendix.
"""

import math

import torch
from einops import rearrange
from torch import Tensor


def attention_weights(q: Tensor, k: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d), the mean over the heads. q: [B, N, C]; k: [B, M, C]; mask: [B, 1, M], added
    to the logits. Returns [B, N, M] in float32."""
    logits = attention_logits(q, k, heads)
    if mask is not None:
        logits = logits + mask[:, None].float()
    return logits.softmax(-1).mean(1)


def attention_logits(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """q kᵀ / √d of each head. q: [B, N, C]; k: [B, M, C]. Returns [B, heads, N, M] in float32."""
    q, k = (rearrange(t.float(), "b n (h d) -> b h n d", h=heads) for t in (q, k))
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])


def to_grounding_tokens(weights: Tensor, places: int, tokens: int) -> Tensor:
    """What the places pay to the grounding tokens [B, G, N], of a layer's attention [B, queries, keys]:
    gatedSA's keys are places, then tokens; gatedCA's are the tokens; gatedSA2's queries are the tokens,
    and what each pays to the places, relative to the one it pays most, is taken in its stead."""
    if weights.shape[1] == places:
        return weights[..., -tokens:].transpose(1, 2)
    paid = weights[..., :places]
    return paid / paid.amax(-1, keepdim=True).clamp(min=torch.finfo(paid.dtype).tiny)
