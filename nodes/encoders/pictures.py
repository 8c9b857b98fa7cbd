"""The feature of a reference picture, from the host's CLIP vision output."""

import folder_paths
import torch
from comfy.clip_vision import Output
from comfy.sd import CLIP
from safetensors.torch import load_file

from ...gligen_ops.errors import GligenError
from ...gligen_ops.tokenizers.image_prompt import image_feature as image_prompt
from ..seam.gligens import LoadedGligen
from .phrases import encoder_name, need_clip

CLIPS_OWN = "of the CLIP"
WEIGHT = "clip_l.transformer.text_projection.weight"
REMEDIES = (
    "Load the text encoder clip_l.safetensors (with its projection) by the CLIP Load node and connect it "
    "to clip, or put the authors' projection_matrix as projection_matrix.pt into models/gligen and choose "
    "it in projection."
)


def image_feature(
    clip_vision_output: Output, clip: CLIP, projection: str, gligen: LoadedGligen
) -> torch.Tensor:
    """[F], for a GLIGEN. Raises GligenError where widths do not fit or the projection is
    missing."""
    embedding = clip_vision_output["image_embeds"].float().cpu()
    if len(embedding) != 1:
        raise GligenError(
            f"clip_vision_output: it holds {len(embedding)} pictures, and one box takes one. Encode a "
            "single picture."
        )
    if not embedding.isfinite().all():
        raise GligenError(
            "clip_vision_output: its features are no numbers (NaN). Look at the picture that was encoded."
        )
    expected = gligen.net.position_net.text_width
    if projection == CLIPS_OWN:
        need_clip(clip, expected)
        matrix = clips_projection(clip)
    else:
        matrix = projection_file(projection)
    if embedding.shape[-1] != matrix.shape[0]:
        raise GligenError(
            f"clip_vision_output: its features are {embedding.shape[-1]} wide, and the text projection "
            f"takes {matrix.shape[0]}. Encode the picture with the CLIP vision model that belongs to the "
            "text encoder (SD 1.x: CLIP ViT-L/14)."
        )
    if matrix.shape[1] != expected:
        raise GligenError(
            f"{'clip' if projection == CLIPS_OWN else 'projection'}: the projection leads to features "
            f"{matrix.shape[1]} wide, and this GLIGEN model was trained with {expected}."
        )
    return image_prompt(embedding[0], matrix)


def clips_projection(clip: CLIP) -> torch.Tensor:
    """P_t of the CLIP. Raises GligenError where it has none: the host then leaves an identity there."""
    weight = clip.get_sd().get(WEIGHT)
    if weight is None:
        raise GligenError(
            f"clip: came {encoder_name(clip)}, which is no CLIP of the SD 1.x kind. {REMEDIES}"
        )
    weight = weight.float().cpu()
    if torch.equal(weight, torch.eye(len(weight))):
        raise GligenError(
            "clip: it has no text projection (checkpoints of SD 1.x leave it out), and without it a "
            f"picture cannot be read as GLIGEN was trained to. {REMEDIES}"
        )
    return weight


def projection_file(name: str) -> torch.Tensor:
    """The authors' file is a lone tensor, which the host's loader does not take."""
    path = folder_paths.get_full_path_or_raise("gligen", name)
    try:
        if path.endswith((".safetensors", ".sft")):
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes of another file lead to
        raise GligenError(
            f"projection: {name} is not a file of a matrix ({type(error).__name__}). Choose the authors' "
            "projection_matrix."
        ) from error
    tensors = [loaded] if isinstance(loaded, torch.Tensor) else list(loaded.values())
    if len(tensors) != 1 or tensors[0].ndim != 2:
        raise GligenError(
            f"projection: {name} does not hold one matrix. Choose the authors' projection_matrix, of 768 "
            "by 768."
        )
    return tensors[0].float()
