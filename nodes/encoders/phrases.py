"""The feature of a phrase, from the host's CLIP."""

import torch

from ...gligen_ops.entities import BoxEntity, PhraseBox, check_boxes
from ...gligen_ops.errors import GligenError
from ...gligen_ops.tokenizers.box import BoxTokenizer
from ...gligen_ops.tokenizers.text_image import TextImageTokenizer
from ..seam.conditioning import ground
from ..seam.entries import by_entity
from ..seam.gligens import LoadedGligen, need

WHICH_CLIP = (
    "Connect the CLIP of the base model that the GLIGEN file belongs to, from Load Checkpoint (SD 1.x: "
    "768 wide, SD 2.x: 1024)."
)


def ground_boxes(conditioning, gligen, clip, frames: list[list[PhraseBox]], strength: float = 1.0):
    """The conditioning with the boxes of each frame added to those it has. Raises GligenError for bad
    boxes, for more boxes than the model has slots, and for a CLIP of another width than the model's."""
    if not any(frames):
        return conditioning
    gligen = need(gligen, BoxTokenizer, TextImageTokenizer)
    features = {
        phrase: phrase_feature(clip, phrase, gligen)
        for phrase in dict.fromkeys(b.phrase for boxes in frames for b in check_boxes(boxes))
    }
    entities = [[BoxEntity(b.box, b.phrase, features[b.phrase]) for b in boxes] for boxes in frames]
    return ground(conditioning, gligen, by_entity(entities), strength)


def phrase_feature(clip, phrase: str, gligen: LoadedGligen) -> torch.Tensor:
    """CLIP's pooled text output before its projection, [F]. Raises GligenError for another text encoder than
    the GLIGEN was trained with, and for words of which nothing would come."""
    if clip is None:
        raise GligenError(
            f"clip: none came, as some checkpoints hold no text encoder. {WHICH_CLIP}"
        )
    tokens = clip.tokenize(phrase)
    if isinstance(tokens, dict):
        problem = _problem(phrase, tokens)
        if problem:
            raise GligenError(f"text ({phrase.strip()[:60]}): {problem}")
    feature = _pooled(clip, tokens)
    name = type(getattr(clip, "cond_stage_model", clip)).__name__
    if feature is None:
        raise GligenError(
            f"clip: came a text encoder ({name}) that has no feature of a whole phrase. {WHICH_CLIP}"
        )
    feature = feature.reshape(-1).float()
    expected = gligen.gligen.position_net.text_width
    if len(feature) != expected:
        raise GligenError(
            f"clip: its text features are {len(feature)} wide ({name}), and this GLIGEN model was trained "
            f"with {expected}. {WHICH_CLIP}"
        )
    return feature


def _pooled(clip, tokens) -> torch.Tensor | None:
    try:
        pooled = clip.encode_from_tokens(tokens, return_pooled="unprojected")[1]
    except (AttributeError, TypeError, IndexError):  # of encoders that know of no pooled output
        return None
    return pooled if isinstance(pooled, torch.Tensor) else None


def _problem(phrase: str, tokens: dict) -> str | None:
    """tokens: of each encoder, batches of (token or embedding, weight, ...)."""
    batches = next(iter(tokens.values()))
    if len(batches) > 1:
        return "it is longer than what CLIP reads at once, 75 words or so. Say in short what appears there."
    if any(token[1] != 1.0 for batch in batches for token in batch):
        return (
            "weights in brackets do nothing for a phrase of GLIGEN. Take them off (write \\( for a bracket "
            "that is meant), and use strength."
        )
    embedded = any(isinstance(token[0], torch.Tensor) for batch in batches for token in batch)
    if "embedding:" in phrase and not embedded:
        return "the embedding that it names is not in models/embeddings. Check its name, or take it off."
    return None
