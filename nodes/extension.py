from comfy_api.latest import ComfyExtension, io

from .beta_schedule import GligenBetaSchedule
from .demo_model import GligenDemoModel
from .ksampler import GligenKSampler
from .model_loader import GligenModelLoader
from .preview import GligenPreview
from .text_box import GligenTextBox
from .text_boxes import GligenTextBoxes

NODES: list[type[io.ComfyNode]] = [
    GligenModelLoader,
    GligenTextBox,
    GligenTextBoxes,
    GligenBetaSchedule,
    GligenKSampler,
    GligenPreview,
    GligenDemoModel,
]


class GligenExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
