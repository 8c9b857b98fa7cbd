"""The GLIGENs of the demo, all over the same frozen base."""

from .boxes import Boxes
from .canny import Canny
from .images import Images
from .inpainting import Inpainting
from .keypoints import Keypoints

ADAPTERS = {adapter.name: adapter for adapter in (Boxes, Images, Keypoints, Canny, Inpainting)}
