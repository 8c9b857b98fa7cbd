"""The attention of the gated layers: the host's."""

from collections.abc import Callable

import comfy.ldm.modules.attention as host_attention
import torch
from torch import Tensor


def attention_of(extra: dict) -> Callable[..., Tensor]:
    def attention(q, k, v, heads, mask=None):
        precision = extra["attn_precision"]
        attend = attention_on(v.device)
        return attend(q, k, v, heads, mask, attn_precision=precision, transformer_options=extra)

    return attention


def attention_on(device: torch.device):
    """The host's choice of attention. Its last resort, which it takes for a CPU, gives way to PyTorch's,
    which is exact too and faster there."""
    chosen = host_attention.optimized_attention
    resort = device.type == "cpu" and chosen is host_attention.attention_sub_quad
    return host_attention.attention_pytorch if resort else chosen
