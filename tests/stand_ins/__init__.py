"""Nodes for tests, put into the server's custom_nodes: what would need a download otherwise."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import torch
from comfy_api.latest import ComfyExtension, io

import nodes as host

DEMO_UNET = {
    "image_size": 16, "in_channels": 4, "model_channels": 64, "hint_channels": 3,
    "channel_mult": [1, 1], "num_res_blocks": [1, 2], "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1, "context_dim": 64, "use_spatial_transformer": True, "num_heads": 4,
    "legacy": False,
}  # fmt: skip


class StandInControlNet(io.ComfyNode):
    """A ControlNet with random weights, of the demo model's shape."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StandInControlNet",
            category="tests",
            inputs=[io.Int.Input("seed", default=0)],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, seed) -> io.NodeOutput:
        ops = comfy.ops.disable_weight_init
        model = comfy.cldm.cldm.ControlNet(**DEMO_UNET, dtype=torch.float32, operations=ops)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
        device = comfy.model_management.get_torch_device()
        return io.NodeOutput(comfy.controlnet.ControlNet(model, load_device=device))


class StandInWeights(io.ComfyNode):
    """A demo model of its own with its weights in another type."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StandInWeights",
            category="tests",
            inputs=[io.Combo.Input("dtype", options=["float16", "bfloat16", "float8_e4m3fn"])],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, dtype) -> io.NodeOutput:
        model = host.NODE_CLASS_MAPPINGS["GligenDemoModel"].execute().result[0]
        for module in model.model.diffusion_model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.to(getattr(torch, dtype))
                module.comfy_cast_weights = True
        return io.NodeOutput(model)


class StandInLittleMemory(io.ComfyNode):
    """Models of which the host has room for a tenth, and gives the rest of the weights as they are
    needed."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StandInLittleMemory",
            category="tests",
            inputs=[
                io.Model.Input("model", optional=True),
                io.Gligen.Input("gligen", optional=True),
            ],
            outputs=[io.Model.Output(), io.Gligen.Output()],
        )

    @classmethod
    def execute(cls, model=None, gligen=None) -> io.NodeOutput:
        return io.NodeOutput(*(m and cls.squeezed(m.clone()) for m in (model, gligen)))

    @staticmethod
    def squeezed(patcher):
        load = patcher.load

        def load_a_tenth(device_to=None, *args, **kwargs):
            load(device_to, lowvram_model_memory=patcher.model_size() // 10)
            parts = patcher.model.modules()
            assert any(getattr(part, "prev_comfy_cast_weights", None) is not None for part in parts)

        patcher.load = load_a_tenth
        return patcher


class StandIns(ComfyExtension):
    async def get_node_list(self):
        return [StandInControlNet, StandInWeights, StandInLittleMemory]


async def comfy_entrypoint():
    return StandIns()
