from comfy_api.latest import ComfyExtension, io

from .attention import GligenAttention, GligenAttentionMaps
from .beta_schedule import GligenBetaSchedule
from .demo_model import GligenDemoModel
from .demo_picture import GligenDemoPicture
from .image_box import GligenImageBox
from .inpaint import GligenInpaint
from .keypoints import GligenKeypoints
from .ksampler import GligenKSampler
from .model_loader import GligenModelLoader
from .model_save import GligenModelSave
from .preview import GligenPreview
from .spatial_map import GligenSpatialMap
from .text_box import GligenTextBox
from .text_boxes import GligenTextBoxes

NODES: list[type[io.ComfyNode]] = [
    GligenModelLoader,
    GligenModelSave,
    GligenTextBox,
    GligenTextBoxes,
    GligenImageBox,
    GligenKeypoints,
    GligenSpatialMap,
    GligenInpaint,
    GligenBetaSchedule,
    GligenKSampler,
    GligenPreview,
    GligenAttention,
    GligenAttentionMaps,
    GligenDemoModel,
    GligenDemoPicture,
]


class GligenExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
