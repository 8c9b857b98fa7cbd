"""Grounding tokens of text boxes: GLIGEN (arXiv 2301.07093), section 3.1, equation 5.

    h^e = MLP(f_text(e), Fourier(l))

for an entity with phrase e in the box l. A slot without an entity takes learned null features.
Original: `PositionNet` in ldm/modules/diffusionmodules/text_grounding_net.py of gligen/GLIGEN.
"""

import torch
from torch import Tensor, nn

from .fourier import fourier_embedding, fourier_width

SLOTS = 30
HIDDEN = 512


class BoxTokenizer(nn.Module):
    """text_width: F of the phrase feature; token_width: D of the grounding tokens (768 on SD 1.x)."""

    slots = SLOTS

    def __init__(self, text_width: int, token_width: int, operations=nn):
        super().__init__()
        position_width = fourier_width(4)
        self.linears = nn.Sequential(
            operations.Linear(text_width + position_width, HIDDEN),
            nn.SiLU(),
            operations.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            operations.Linear(HIDDEN, token_width),
        )
        self.null_positive_feature = nn.Parameter(torch.zeros(text_width))
        self.null_position_feature = nn.Parameter(torch.zeros(position_width))

    @property
    def text_width(self) -> int:
        return self.null_positive_feature.shape[0]

    def forward(self, boxes: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """boxes: [B, N, 4] corners xyxy as fractions of the image; mask: [B, N], 1 where there is an
        entity, else 0; features: [B, N, F] of the phrases. Returns tokens [B, N, D].
        """
        mask = mask[..., None]
        null_feature = self.null_positive_feature.to(features)
        null_position = self.null_position_feature.to(boxes)
        text = features * mask + (1 - mask) * null_feature
        position = fourier_embedding(boxes) * mask + (1 - mask) * null_position
        return self.linears(torch.cat([text, position], dim=-1))
