"""The gated layer that GLIGEN adds to each transformer block of a frozen UNet.

GLIGEN (arXiv 2301.07093), section 3.2, "Gated Self-Attention":

    v = v + β · tanh(γ_attn) · TS(SelfAttn([v, h^e]))
    v = v + β · tanh(γ_dense) · FF(v)

It sits between self-attention and cross-attention. TS keeps the visual tokens, so grounding tokens
need keys and values but never a query, and these do not depend on v: they are made once for a run.
Original: `GatedSelfAttentionDense` in ldm/modules/attention.py of gligen/GLIGEN. The other two kinds
are in gated_grid.py and gated_cross.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn


class GroundingKeys(NamedTuple):
    """What one gated layer needs of the grounding tokens: it stays the same for a whole run."""

    key: Tensor  # [B, G, C]
    value: Tensor  # [B, G, C]
    query: Tensor | None = None  # [B, G, C], of gatedSA2
    bias: Tensor | None = None  # [B, 1, G], added to the logits of the grounding tokens


Attention = Callable[..., Tensor]
"""q [B, N, C], k, v [B, M, C], heads, mask=[B, 1, M] or None, added to the logits → [B, N, C]."""
Grid = tuple[int, int] | None
"""Height and width of the visual tokens; None: they are a square."""


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention. q: [B, N, C]; k, v: [B, M, C]; mask: [B, 1, M], added to the
    logits. Returns [B, N, C]."""
    q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=heads) for t in (q, k, v))
    mask = None if mask is None else mask[:, None].to(q)
    out = nn.functional.scaled_dot_product_attention(q, k, v, mask)
    return rearrange(out, "b h n d -> b n (h d)")


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int, operations):
        super().__init__()
        self.proj = operations.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * nn.functional.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int, operations):
        super().__init__()
        inner = 4 * width
        self.net = nn.Sequential(
            GEGLU(width, inner, operations), nn.Identity(), operations.Linear(inner, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Projections(nn.Module):
    def __init__(self, width: int, context_width: int, operations):
        super().__init__()
        self.to_q = operations.Linear(width, width, bias=False)
        self.to_k = operations.Linear(context_width, width, bias=False)
        self.to_v = operations.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(operations.Linear(width, width))


class GatedLayer(nn.Module):
    """What all gated layers share: two gates, the second of them of a feed-forward. Each kind adds
    `keys`, and `residual`, what its attention finds for the visual tokens [B, N, C].

    width: C, that of the host's block. context_width: of what keys and values are made from.
    operations: where Linear and LayerNorm come from (`torch.nn`, or the host's casting ones).
    """

    def __init__(self, width: int, context_width: int, operations=nn):
        super().__init__()
        self.attn = Projections(width, context_width, operations)
        self.ff = FeedForward(width, operations)
        self.norm1 = operations.LayerNorm(width)
        self.norm2 = operations.LayerNorm(width)
        self.alpha_attn = nn.Parameter(torch.zeros(()))  # γ_attn
        self.alpha_dense = nn.Parameter(torch.zeros(()))  # γ_dense

    def gates(self) -> tuple[Tensor, Tensor]:
        """tanh(γ_attn) and tanh(γ_dense), in float32."""
        return torch.tanh(self.alpha_attn.float()), torch.tanh(self.alpha_dense.float())

    def forward(
        self,
        v: Tensor,
        grounding: GroundingKeys,
        heads: int,
        gates: tuple[Tensor, Tensor],
        beta: float = 1.0,
        attention: Attention = attention,
        grid: Grid = None,
    ) -> Tensor:
        """v: visual tokens [B, N, C]. Returns [B, N, C].

        heads: attention heads, as many as the host's block has. gates: `self.gates()` on the device
        of v. beta: β of this step, 0..1 and beyond. grid: used by gatedSA2 alone.
        """
        attn_gate, dense_gate = (beta * gate.to(v.dtype) for gate in gates)
        v = torch.addcmul(v, attn_gate, self.residual(v, grounding, heads, attention, grid))
        return torch.addcmul(v, dense_gate, self.ff(self.norm2(v)))


class GatedSelfAttention(GatedLayer):
    """`gatedSA`: visual tokens of width C attend over themselves and over the grounding tokens.

    width: C, that of the host's block. grounding_width: D of the grounding tokens (768 on SD 1.x).
    """

    def __init__(self, width: int, grounding_width: int, operations=nn):
        super().__init__(width, width, operations)
        self.linear = operations.Linear(grounding_width, width)

    def keys(self, tokens: Tensor) -> GroundingKeys:
        """Keys and values of grounding tokens [B, G, D]; norm1 acts on each token by itself."""
        h = self.norm1(self.linear(tokens))
        return GroundingKeys(self.attn.to_k(h), self.attn.to_v(h))

    def residual(
        self, v: Tensor, grounding: GroundingKeys, heads: int, attention: Attention, grid: Grid
    ) -> Tensor:
        h = self.norm1(v)
        key, value = self.keys_of_all(h, grounding)
        mask = grounding.bias
        if mask is not None:
            mask = nn.functional.pad(mask, (v.shape[1], 0))  # [B, 1, N + G]
        return self.attn.to_out(attention(self.attn.to_q(h), key, value, heads, mask=mask))

    def keys_of_all(self, h: Tensor, grounding: GroundingKeys) -> tuple[Tensor, Tensor]:
        """Keys and values [B, N + G, C] of the visual tokens, which are h after norm1, then of the
        grounding tokens."""
        key = torch.cat([self.attn.to_k(h), grounding.key], dim=1)
        return key, torch.cat([self.attn.to_v(h), grounding.value], dim=1)
