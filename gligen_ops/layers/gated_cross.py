"""`gatedCA`: the visual tokens attend over the grounding tokens alone.

    v = v + β · tanh(γ_attn) · CrossAttn(v, h^e)
    v = v + β · tanh(γ_dense) · FF(v)

GLIGEN (arXiv 2301.07093), the ablation of section 3.2's layer. Original: `GatedCrossAttentionDense` in
ldm/modules/attention.py of gligen/GLIGEN.
"""

from torch import Tensor

from .gated_self_attention import Attention, GatedLayer, Grid, GroundingKeys


class GatedCrossAttention(GatedLayer):
    """context_width: D of the grounding tokens, which keys and values are made from as they are."""

    def keys(self, tokens: Tensor) -> GroundingKeys:
        """Keys and values of grounding tokens [B, G, D]."""
        return GroundingKeys(self.attn.to_k(tokens), self.attn.to_v(tokens))

    def residual(
        self, v: Tensor, grounding: GroundingKeys, heads: int, attention: Attention, grid: Grid
    ) -> Tensor:
        query = self.attn.to_q(self.norm1(v))
        out = attention(query, grounding.key, grounding.value, heads, mask=grounding.bias)
        return self.attn.to_out(out)
