"""Puts grounding into a CONDITIONING, under the host's own key, and reads it back."""

import torch

from ..gligen_ops.entity import PhraseBox, check_boxes
from ..gligen_ops.errors import GligenError
from .entries import Entry, box_of, check_count
from .seat import own

KEY = "gligen"
LATENT_PIXEL = 8


def ground_boxes(conditioning, gligen, clip, boxes: list[PhraseBox]):
    """The conditioning with the boxes added to those it has. Raises GligenError for bad boxes, for
    more boxes than the model has slots, and for a CLIP of another width than the model's."""
    if not boxes:
        return conditioning
    gligen = own(gligen)
    entries = [Entry(phrase_feature(clip, b.phrase), b) for b in check_boxes(boxes)]
    check_width(entries[0][0], gligen.model.text_width)
    out = []
    for text, extra in conditioning:
        all_entries = [*entries_of(extra), *entries]
        check_count(len(all_entries), gligen.model.slots)
        out.append([text, {**extra, KEY: ("position", gligen, all_entries)}])
    return out


def entries_of(extra: dict) -> list[tuple]:
    return extra[KEY][2] if KEY in extra else []


def phrase_feature(clip, phrase: str) -> torch.Tensor:
    """CLIP's pooled text output before its projection, [1, F]."""
    return clip.encode_from_tokens(clip.tokenize(phrase), return_pooled="unprojected")[1]


def check_width(feature: torch.Tensor, expected: int) -> None:
    if feature.shape[-1] != expected:
        raise GligenError(
            f"clip: its text features are {feature.shape[-1]} wide, and this GLIGEN model was trained "
            f"with {expected}. Use the CLIP of the base model that the GLIGEN file belongs to "
            "(SD 1.x: 768, SD 2.x: 1024)."
        )


def boxes_of(conditioning, width: int, height: int) -> list[PhraseBox]:
    """The boxes that a CONDITIONING carries, for an image of width × height pixels. Entries of the
    host's own nodes have no phrase and are numbered."""
    boxes = []
    for _, extra in conditioning:
        for entry in entries_of(extra):
            phrase = getattr(entry, "phrase", f"box {len(boxes) + 1}")
            box = box_of(entry, height / LATENT_PIXEL, width / LATENT_PIXEL)
            if PhraseBox(phrase, box) not in boxes:
                boxes.append(PhraseBox(phrase, box))
    return boxes
