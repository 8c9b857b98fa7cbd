"""Text and image boxes: things by a phrase, by a reference picture or by both; and the time of day and the
tint of the whole by a picture's style."""

import torch
from torch import Tensor

from ....gligen_ops.tokenizers.text_image import SLOTS, TextImageTokenizer
from .. import train_vision
from ..device import DEVICE, constant
from .adapter import HIDDEN, WIDTH, Adapter, Examples, Phrases, in_slots, kept_of

STYLE = (0.0, 1.0, 0.0, 1.0)  # as the authors write it
STYLED = 0.25  # share of examples that are grounded by a style alone
JITTER = 0.2
TEXT, BOTH = 0.2, 0.5  # shares of phrases alone, and of those and phrases with pictures


class Images(Adapter):
    name, kind, seed = "images", "text and image box", 14
    start = "boxes"

    def new_tokenizer(self):
        return TextImageTokenizer(WIDTH, WIDTH, hidden=HIDDEN)

    def prepare(self, text):
        super().prepare(text)
        self.phrases = Phrases(text)
        self.pictures = train_vision.references()
        self.spread = self.pictures.feature.std(0) * JITTER

    def begin(self, other):
        """Both MLPs begin as that of the text boxes: the vision model speaks the text encoder's language."""
        for mlp in (self.tokenizer.linears_text, self.tokenizer.linears_image):
            mlp.load_state_dict(other.position_net.linears.state_dict())
        with torch.no_grad():
            null = other.position_net.null_positive_feature
            self.tokenizer.null_text_feature.copy_(null)
            self.tokenizer.null_image_feature.copy_(null)
            self.tokenizer.null_position_feature.copy_(other.position_net.null_position_feature)

    def examples(self, at):
        example = self.boxed(at, kept_of(self.scenes.name[at]))
        styled = torch.rand(len(at), device=DEVICE) < STYLED
        feature = self.noisy(self.pictures.of_moment(self.scenes.moment[at]))
        one = (torch.arange(SLOTS, device=DEVICE) == 0).float().expand(len(at), -1)
        box, image = one[..., None] * constant(*STYLE), one[..., None] * feature[:, None]
        style = (box, one, 0 * one, one, 0 * image, image)

        def chosen(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(styled.view(-1, *[1] * (a.ndim - 1)), a, b)

        inputs = tuple(map(chosen, style, example.inputs))
        regions = chosen(0 * example.regions, example.regions)
        return Examples(inputs, regions, self.captions(at, plain=styled))

    def boxed(self, at: Tensor, kept: Tensor) -> Examples:
        """kept: 1 for the things of the scenes that are grounded, [B, 4]."""
        name = self.scenes.name[at]
        use = torch.rand(name.shape, device=DEVICE)
        text_mask, image_mask = kept * (use < BOTH), kept * (use > TEXT)
        text = self.phrases.of(name) * text_mask[..., None]
        image = self.noisy(self.pictures.of_name(name)) * image_mask[..., None]
        parts = (self.scenes.box[at] * kept[..., None], kept, text_mask, image_mask, text, image)
        inputs = tuple(in_slots(part, SLOTS) for part in parts)
        regions = torch.cat([inputs[0] * inputs[2][..., None], inputs[0] * inputs[3][..., None]], 1)
        return Examples(inputs, regions, self.captions(at))

    def noisy(self, features: Tensor) -> Tensor:
        return features + self.spread * torch.randn_like(features)
