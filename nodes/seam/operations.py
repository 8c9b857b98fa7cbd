"""What the layers of a GLIGEN are made of: the host's, which cast their weights as they compute."""

import comfy.ops
import torch
from torch import Tensor
from torch.nn.functional import conv2d

ONEDNN_IS_FASTER = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
"""On an x86 CPU PyTorch multiplies float32 matrices with MKL and convolves with oneDNN, which was measured
to be about twice as fast on an AMD processor."""


class Operations(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        """Of visual tokens on a CPU it is a convolution of one pixel, over the image as one row."""

        def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:
            on_cpu = input.device.type == "cpu" and input.dtype == torch.float32
            if not (ONEDNN_IS_FASTER and on_cpu and input.ndim == 3):
                return super().forward_comfy_cast_weights(input)
            weight, bias, stream = comfy.ops.cast_bias_weight(self, input, offloadable=True)
            out = conv2d(input.mT[:, :, None], weight[..., None, None], bias)[:, :, 0].mT
            comfy.ops.uncast_bias_weight(self, weight, bias, stream)
            return out
