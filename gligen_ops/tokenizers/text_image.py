"""Grounding tokens of boxes with a phrase, a picture or both: GLIGEN (arXiv 2301.07093), section 3.1,
image prompts.

    h^e = [MLP_text(f_text(e), Fourier(l)), MLP_image(f_image(e), Fourier(l))]

Two tokens an entity. Each is masked by itself: an entity without a phrase, such as one that only lends
its style, shows the null text feature at its place.
Original: `PositionNet` in ldm/modules/diffusionmodules/text_image_grounding_net.py of gligen/GLIGEN.
"""

import torch
from torch import Tensor, nn

from ..entities import BoxEntity
from ..kinds import OFFICIAL, Kind, first_conv_with
from ..layers.first_conv import KnownRegion
from .box import POSITION, SLOTS, box_inputs
from .fourier import fourier_embedding
from .mlp import HIDDEN, mlp_sizes, token_mlp
from .slots import filled, or_null
from .tokenizer import Tokenizer

SIGNATURE = {"position_net.null_image_feature": None}
INPAINTING = SIGNATURE | first_conv_with(KnownRegion.channels)


class TextImageTokenizer(Tokenizer):
    """Makes two tokens of each box: of its phrase, and of its picture.

    text_width: F of the features of phrases and pictures. token_width: D of the grounding tokens. hidden: of
    the MLPs.
    """

    kinds = (
        Kind("text and image box", OFFICIAL + "generation-text-image-box", SIGNATURE),
        Kind(
            "text and image box inpainting",
            OFFICIAL + "inpainting-text-image-box",
            INPAINTING,
            KnownRegion,
        ),
    )
    sizes = {"null_text_feature": ("text_width",)} | mlp_sizes("linears_text")
    slots = SLOTS
    slot_of_token = [*range(SLOTS), *range(SLOTS)]

    def __init__(self, text_width: int, token_width: int, operations=nn, hidden: int = HIDDEN):
        super().__init__()
        self.linears_text = token_mlp(text_width + POSITION, token_width, operations, hidden)
        self.linears_image = token_mlp(text_width + POSITION, token_width, operations, hidden)
        self.null_text_feature = nn.Parameter(torch.zeros(text_width))
        self.null_image_feature = nn.Parameter(torch.zeros(text_width))
        self.null_position_feature = nn.Parameter(torch.zeros(POSITION))

    @property
    def text_width(self) -> int:
        return self.null_text_feature.shape[0]

    def inputs(self, entities: list[BoxEntity]) -> tuple[Tensor, ...]:
        """What `forward` takes, for at most `slots` entities; none: the null grounding."""
        boxes, mask = box_inputs([entity.box for entity in entities])
        text, text_mask = filled([entity.text for entity in entities], SLOTS, self.text_width)
        image, image_mask = filled([entity.image for entity in entities], SLOTS, self.text_width)
        return boxes, mask, text_mask, image_mask, text, image

    def forward(
        self,
        boxes: Tensor,
        mask: Tensor,
        text_mask: Tensor,
        image_mask: Tensor,
        text: Tensor,
        image: Tensor,
    ) -> Tensor:
        """boxes: [B, N, 4] corners xyxy as fractions of the image; mask, text_mask, image_mask:
        [B, N], 1 where there is an entity, its phrase, its picture, else 0; text, image: [B, N, F]
        features. Returns tokens [B, 2N, D], those of the phrases first.
        """
        position = or_null(fourier_embedding(boxes), mask, self.null_position_feature)
        text = or_null(text, text_mask, self.null_text_feature)
        image = or_null(image, image_mask, self.null_image_feature)
        text_tokens = self.linears_text(torch.cat([text, position], dim=-1))
        image_tokens = self.linears_image(torch.cat([image, position], dim=-1))
        return torch.cat([text_tokens, image_tokens], dim=1)
