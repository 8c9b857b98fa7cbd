"""What CLIP makes of the phrases of boxes, and what it could not read in them."""

import re
from collections.abc import Iterable

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from torch import Tensor

from ...gligen_ops.entities import BoxEntity, PhraseBox
from ...gligen_ops.errors import GligenError
from ...gligen_ops.tokenizers.box import BoxTokenizer
from ...gligen_ops.tokenizers.text_image import TextImageTokenizer
from ..layouts.boxes import check_boxes
from ..layouts.problems import Problems, short
from ..seam.conditioning import Conditioning, by_entity, ground
from ..seam.gligens import need

BY_WIDTH = {
    768: "Connect the CLIP of an SD 1.x checkpoint, or clip_l.safetensors from the Load CLIP node.",
    1024: "Connect the CLIP of an SD 2.x checkpoint.",
    1280: "Connect the CLIP of an SDXL checkpoint.",
    2048: "It wants CLIP-L and CLIP-G of SDXL side by side, which this node does not give: choose a "
    "GLIGEN model of SD 1.x or 2.x, with its base model.",
}
"""By the width of the features that a GLIGEN model was trained with: what to do."""
OF_BASE = "Connect the CLIP of the base model that the GLIGEN file belongs to."
CLIP_NAMES = ("l", "g", "h")
"""What the host calls the CLIPs among its text encoders."""
EMBEDDING = re.compile(r"embedding:([^\s():<\[]*)")


def ground_boxes(
    conditioning: Conditioning,
    gligen: ModelPatcher,
    clip: CLIP,
    frames: list[list[PhraseBox]],
    strength: float = 1.0,
) -> Conditioning:
    """The conditioning with the boxes of each frame added to those it has. Raises GligenError for bad
    boxes, for more boxes than the model has slots, and for a CLIP of another width than the model's."""
    if not any(frames):
        return conditioning
    gligen = need(gligen, BoxTokenizer, TextImageTokenizer)
    frames = [check_boxes(boxes) for boxes in frames]
    phrases = [box.phrase for boxes in frames for box in boxes]
    features = phrase_features(clip, phrases, gligen.net.position_net.text_width)
    entities = [[BoxEntity(b.box, b.phrase, features[b.phrase]) for b in boxes] for boxes in frames]
    return ground(conditioning, gligen, by_entity(entities), strength)


def phrase_features(clip: CLIP, phrases: Iterable[str], width: int) -> dict[str, Tensor]:
    """CLIP's pooled text output before its projection, [F], of each phrase. width: F, as the GLIGEN
    model was trained. Raises GligenError where clip is none that gives it, and for every phrase of
    which a part would do nothing."""
    need_clip(clip, width)
    phrases = list(dict.fromkeys(phrases))
    problems = Problems()
    for phrase in phrases:
        with problems.at(f'Phrase "{short(phrase)}"'):
            _check(clip, phrase, width)
    problems.refuse()
    return {phrase: _feature(clip, phrase, width) for phrase in phrases}


def need_clip(clip: CLIP | None, width: int) -> None:
    if clip is None:
        raise GligenError(
            "clip: nothing came. A checkpoint without a CLIP, or a loader of the diffusion model alone, "
            f"gives none. {BY_WIDTH.get(width, OF_BASE)}"
        )


def encoder_name(clip: CLIP) -> str:
    return type(getattr(clip, "cond_stage_model", clip)).__name__.rstrip("_")


def _feature(clip: CLIP, phrase: str, width: int) -> Tensor:
    encoded = clip.encode_from_tokens(clip.tokenize(phrase), return_pooled="unprojected")
    pooled = encoded[1] if isinstance(encoded, tuple) else None
    if pooled is None or not pooled.any():  # the host gives zeros for a CLIP that was left out
        raise GligenError(
            f"clip: came a text encoder ({encoder_name(clip)}) without a CLIP in it, such as T5, which "
            "gives no feature of a phrase as a whole, and this GLIGEN model was trained with those of "
            f"CLIP, {width} wide. {BY_WIDTH.get(width, OF_BASE)}"
        )
    feature = pooled.reshape(-1).float()
    if len(feature) != width:
        raise GligenError(
            f"clip: its text features ({encoder_name(clip)}) are {len(feature)} wide, and this GLIGEN "
            f"model was trained with {width}. {BY_WIDTH.get(width, OF_BASE)}"
        )
    return feature


def _check(clip: CLIP, phrase: str, width: int) -> None:
    """Raises GligenError for a part of the phrase that would do nothing."""
    missing = [name for name in EMBEDDING.findall(phrase) if not _is_embedding(clip, name, width)]
    if missing:
        raise GligenError(
            f"embedding:{missing[0].strip(',')} would do nothing. No such file is in models/embeddings, or "
            "it is one of another base model. Correct its name, or take it out."
        )
    stretches = _tokens(clip, phrase)
    if any(weight != 1 for stretch in stretches for _, weight in stretch):
        raise GligenError(
            "the weight would do nothing, as a box reads its phrase as a whole. Take the parentheses "
            r"out (or write \( and \) where they are meant as such), and set strength for the box."
        )
    if len(stretches) > 1:
        limit = len(stretches[0]) - 2  # beside its start and its end
        raise GligenError(
            f"it is longer than the {limit} tokens that CLIP reads, and the rest would do nothing. "
            "Shorten it to what appears in the box."
        )


def _is_embedding(clip: CLIP, name: str, width: int) -> bool:
    if not name:
        return False
    tokens = [token for stretch in _tokens(clip, f"embedding:{name}") for token, _ in stretch]
    return any(torch.is_tensor(token) and token.shape[-1] == width for token in tokens)


def _tokens(clip: CLIP, text: str) -> list[list[tuple]]:
    """The stretches in which CLIP reads a text, of its tokens with their weights. Of several CLIPs that
    one's which has most."""
    tokens = clip.tokenize(text)
    return max((tokens[name] for name in CLIP_NAMES if name in tokens), key=len, default=[])
