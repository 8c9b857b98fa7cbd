"""Text boxes: things in their boxes, by their phrases."""

from torch import Tensor

from ....gligen_ops.tokenizers.box import SLOTS, BoxTokenizer
from .adapter import HIDDEN, WIDTH, Adapter, Examples, Phrases, in_slots, kept_of


class Boxes(Adapter):
    name, kind, seed = "boxes", "text box", 5

    def new_tokenizer(self):
        return BoxTokenizer(WIDTH, WIDTH, hidden=HIDDEN)

    def prepare(self, text):
        super().prepare(text)
        self.phrases = Phrases(text)

    def examples(self, at):
        return self.boxed(at, kept_of(self.scenes.name[at]))

    def boxed(self, at: Tensor, kept: Tensor) -> Examples:
        """kept: 1 for the things of the scenes that are grounded, [B, 4]."""
        box = in_slots(self.scenes.box[at] * kept[..., None], SLOTS)
        features = in_slots(self.phrases.of(self.scenes.name[at]) * kept[..., None], SLOTS)
        return Examples((box, in_slots(kept, SLOTS), features), box, self.captions(at))
