"""Grounding tokens of text boxes: GLIGEN (arXiv 2301.07093), section 3.1, equation 5.

    h^e = MLP(f_text(e), Fourier(l))

for an entity with phrase e in the box l. A slot without an entity takes learned null features.
Original: `PositionNet` in ldm/modules/diffusionmodules/text_grounding_net.py of gligen/GLIGEN.
"""

import torch
from torch import Tensor, nn

from ..entities import BoxEntity
from ..kinds import OFFICIAL, Kind, first_conv_with
from ..layers.first_conv import KnownRegion
from ..places import Box
from .fourier import fourier_embedding, fourier_width
from .mlp import HIDDEN, mlp_sizes, token_mlp
from .slots import filled, or_null
from .tokenizer import Tokenizer

SLOTS = 30
POSITION = fourier_width(4)
SIGNATURE = {"position_net.null_positive_feature": None}
INPAINTING = SIGNATURE | first_conv_with(KnownRegion.channels)


def box_inputs(boxes: list[Box]) -> tuple[Tensor, Tensor]:
    """Corners xyxy [1, 30, 4], fractions of the image, and their mask [1, 30]."""
    corners = [torch.tensor([box.x0, box.y0, box.x1, box.y1]) for box in boxes]
    return filled(corners, SLOTS, 4)


class BoxTokenizer(Tokenizer):
    """Makes a token of each box with its phrase.

    text_width: F of the phrase's feature. token_width: D of the grounding tokens (768 on SD 1.x). hidden: of
    the MLP.
    """

    kinds = (
        Kind("text box", OFFICIAL + "generation-text-box", SIGNATURE),
        Kind("text box inpainting", OFFICIAL + "inpainting-text-box", INPAINTING, KnownRegion),
    )
    sizes = {"null_positive_feature": ("text_width",)} | mlp_sizes("linears")
    slots = SLOTS
    slot_of_token = list(range(SLOTS))

    def __init__(self, text_width: int, token_width: int, operations=nn, hidden: int = HIDDEN):
        super().__init__()
        self.linears = token_mlp(text_width + POSITION, token_width, operations, hidden)
        self.null_positive_feature = nn.Parameter(torch.zeros(text_width))
        self.null_position_feature = nn.Parameter(torch.zeros(POSITION))

    @property
    def text_width(self) -> int:
        return self.null_positive_feature.shape[0]

    def inputs(self, entities: list[BoxEntity]) -> tuple[Tensor, ...]:
        """What `forward` takes, for at most `slots` entities with text; none: the null grounding."""
        boxes, mask = box_inputs([entity.box for entity in entities])
        text, _ = filled([entity.text for entity in entities], SLOTS, self.text_width)
        return boxes, mask, text

    def forward(self, boxes: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """boxes: [B, N, 4] corners xyxy as fractions of the image; mask: [B, N], 1 where there is an
        entity, else 0; features: [B, N, F] of the phrases. Returns tokens [B, N, D].
        """
        text = or_null(features, mask, self.null_positive_feature)
        position = or_null(fourier_embedding(boxes), mask, self.null_position_feature)
        return self.linears(torch.cat([text, position], dim=-1))
