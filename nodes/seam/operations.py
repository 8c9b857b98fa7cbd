"""What the gated layers compute with: the host's layers, which cast their weights, and its attention."""

from collections.abc import Callable

import comfy.ldm.modules.attention as host_attention
import comfy.ops
import torch
from torch import Tensor
from torch.nn.functional import conv2d

ONEDNN_IS_FASTER = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
"""On an x86 CPU PyTorch multiplies float32 matrices with MKL and convolves with oneDNN, which was measured
to be about twice as fast on an AMD processor."""


class Operations(comfy.ops.manual_cast):
    """The host's operations, with a linear layer of its own."""

    class Linear(comfy.ops.manual_cast.Linear):
        """A linear layer. Of visual tokens on a CPU it is a convolution of one pixel, over the image as one
        row."""

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:
            on_cpu = input.device.type == "cpu" and input.dtype == torch.float32
            if not (ONEDNN_IS_FASTER and on_cpu and input.ndim == 3):
                return super().forward_comfy_cast_weights(input)
            weight, bias, stream = comfy.ops.cast_bias_weight(self, input, offloadable=True)
            out = conv2d(input.mT[:, :, None], weight[..., None, None], bias)[:, :, 0].mT
            comfy.ops.uncast_bias_weight(self, weight, bias, stream)
            return out


def attention_of(extra: dict) -> Callable[..., Tensor]:
    """The host's attention, for a call of a patch. extra: what the host tells the patch.

    The host's last resort, which it takes for a CPU, gives way to PyTorch's, which is exact too and faster
    there."""

    def attention(q, k, v, heads, mask=None):
        attend = host_attention.optimized_attention
        if v.device.type == "cpu" and attend is host_attention.attention_sub_quad:
            attend = host_attention.attention_pytorch
        precision = extra["attn_precision"]
        return attend(q, k, v, heads, mask, attn_precision=precision, transformer_options=extra)

    return attention
