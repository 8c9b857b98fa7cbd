"""Image features that stand where phrase features do: GLIGEN (arXiv 2301.07093), section 3.1, "Image
Prompt".

    f_image(e) = P_tᵀ P_i h

for CLIP's image feature h: into the space that text and images share by CLIP's image projection P_i,
and back into that of text features by the text projection P_t, transposed; then scaled to the length
that text features have. Original: `get_clip_feature` in gligen_inference.py of gligen/GLIGEN.
"""

from torch import Tensor
from torch.nn.functional import normalize

TEXT_LENGTH = 28.7


def image_feature(embedding: Tensor, projection: Tensor) -> Tensor:
    """embedding: P_i h, CLIP's image embedding [S]; projection: P_t [S, F]. Returns [F], of length
    28.7."""
    return TEXT_LENGTH * normalize(embedding @ projection, dim=-1)
