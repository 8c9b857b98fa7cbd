"""`gatedSA2`: the grounding tokens, which lie on a grid, are what attends, and the visual tokens add
what they found at their place.

    v = v + β · tanh(γ_attn) · Resize(TS'(SelfAttn([v, h^e])))
    v = v + β · tanh(γ_dense) · FF(v)

TS' keeps the grounding tokens, so visual tokens need keys and values but never a query.
A variant of the layer of GLIGEN (arXiv 2301.07093), section 3.2, for spatial maps. Original:
`GatedSelfAttentionDense2` in ldm/modules/attention.py of gligen/GLIGEN.
"""

import math

from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from .gated_self_attention import Attention, GatedSelfAttention, Grid, GroundingKeys


class GatedGridAttention(GatedSelfAttention):
    """Has the tensors of `GatedSelfAttention`. The number of grounding tokens has to be a square."""

    def keys(self, tokens: Tensor) -> GroundingKeys:
        """Queries, keys and values of grounding tokens [B, G, D]."""
        h = self.norm1(self.linear(tokens))
        return GroundingKeys(self.attn.to_k(h), self.attn.to_v(h), self.attn.to_q(h))

    def residual(
        self, v: Tensor, grounding: GroundingKeys, heads: int, attention: Attention, grid: Grid
    ) -> Tensor:
        key, value = self.keys_of_all(self.norm1(v), grounding)
        out = self.attn.to_out(attention(grounding.query, key, value, heads))  # [B, G, C]
        out = rearrange(out, "b (y x) c -> b c y x", y=math.isqrt(out.shape[1]))
        side = math.isqrt(v.shape[1])
        out = interpolate(out, grid or (side, side), mode="bicubic")
        return rearrange(out, "b c h w -> b (h w) c")
