"""The GLIGENs of the demo, all over the same frozen base."""

from .boxes import Boxes
from .images import Images
from .inpainting import ImageInpainting, Inpainting
from .keypoints import Keypoints
from .maps import Canny, Depth, Hed, Normal, Semantic

ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        *(Boxes, Images, Keypoints, Hed, Canny, Depth, Normal, Semantic),
        *(Inpainting, ImageInpainting),
    )
}
