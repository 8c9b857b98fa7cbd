"""Puts grounding into a CONDITIONING, under the host's own key, and reads it back."""

from ..gligen_ops.entity import Entity, PhraseBox, Pose, check_boxes
from ..gligen_ops.errors import GligenError
from ..gligen_ops.kinds import KINDS
from .entries import Entry, by_entity, carried, entities_at, entries_of
from .phrases import phrase_features
from .run import check_count
from .seat import own

LATENT_PIXEL = 8
KIND = {kind.name: kind for kind in KINDS}


def need(gligen, *kinds: str):
    """The GLIGEN, where it is of one of these kinds; else a GligenError that says which it is."""
    gligen = own(gligen)
    kind = gligen.model.gligen.kind
    if kind.name not in kinds:
        wanted = " or ".join(f"{name} ({KIND[name].official})" for name in kinds)
        raise GligenError(
            f"gligen: {gligen.model.name} is a {kind} model, and this node needs another kind: {wanted}. "
            "Choose such a file in the GLIGEN Model Loader."
        )
    return gligen


def ground(conditioning, gligen, frames_of_entities: list[list], strength: float = 1.0):
    """The conditioning with more entities of a GLIGEN, each given frame by frame. Raises GligenError
    where they are more than the model has slots for."""
    new = [Entry(gligen, frames, strength) for frames in frames_of_entities]
    out = []
    for text, extra in conditioning:
        entries = [e.of(own(e.gligen)) for e in entries_of(extra)] + new
        gligens = list(dict.fromkeys(e.gligen for e in entries))
        check_count(gligen.model, [e for e in entries if e.gligen is gligen])
        out.append([text, {**extra, **carried(extra, gligens, entries)}])
    return out


BOXES = (
    "text box",
    "text and image box",
    "text box inpainting",
    "text and image box inpainting",
)


def ground_boxes(conditioning, gligen, clip, frames: list[list[PhraseBox]], strength: float = 1.0):
    """The conditioning with the boxes of each frame added to those it has. Raises GligenError for bad
    boxes, for more boxes than the model has slots, and for what `phrase_features` cannot read."""
    if not any(frames):
        return conditioning
    gligen = need(gligen, *BOXES)
    frames = [check_boxes(boxes) for boxes in frames]
    phrases = [box.phrase for boxes in frames for box in boxes]
    features = phrase_features(clip, phrases, gligen.model.gligen.position_net.text_width)
    entities = [[Entity(b.box, b.phrase, features[b.phrase]) for b in boxes] for boxes in frames]
    return ground(conditioning, gligen, by_entity(entities), strength)


def boxes_of(conditioning, width: int, height: int, frame: int = 0) -> list[PhraseBox]:
    """The boxes that a CONDITIONING carries in a frame, for an image of width × height pixels. Entries
    of the host's own nodes have no phrase and are numbered. A style has no box."""
    boxes = []
    for entity in _entities(conditioning, width, height, frame):
        if isinstance(entity, Entity) and entity.box.problem() is None:
            box = PhraseBox(entity.phrase or f"box {len(boxes) + 1}", entity.box)
            if box not in boxes:
                boxes.append(box)
    return boxes


def poses_of(conditioning, frame: int = 0) -> list[Pose]:
    """The persons that a CONDITIONING carries in a frame."""
    return [e for e in _entities(conditioning, 1, 1, frame) if isinstance(e, Pose)]


def _entities(conditioning, width: int, height: int, frame: int) -> list:
    size = height / LATENT_PIXEL, width / LATENT_PIXEL
    return [
        entity
        for _, extra in conditioning
        for entity, _ in entities_at(entries_of(extra), frame, *size)
    ]
