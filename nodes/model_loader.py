import sys

import folder_paths
from comfy_api.latest import io

from .seam import gligens


class GligenModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenModelLoader",
            display_name="GLIGEN Model Loader",
            category="model/loaders",
            description="Loads a GLIGEN model: the gated layers and the grounding tokenizer that place "
            "objects. Reads pruned safetensors, the authors' .bin and .pth files and diffusers files, of all "
            "ten official models, and shows which kind it is.",
            search_aliases=["gligen", "grounding", "layout", "bounding box"],
            inputs=[
                io.Combo.Input(
                    "gligen_name", options=folder_paths.get_filename_list("gligen"),
                    tooltip="A file in models/gligen. If the list is empty, put a GLIGEN text-box file "
                    "there, for example gligen_sd14_textbox_pruned.safetensors, and press R.",
                )
            ],
            outputs=[io.Gligen.Output(tooltip="For the GLIGEN nodes.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, gligen_name) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("gligen", gligen_name)
        gligen = gligens.load(path, gligen_name)
        show(gligen.description(), cls.hidden)
        return io.NodeOutput(gligen.patcher)


def show(text: str, hidden) -> None:
    """Write on the node. Nodes also run in processes without a server, where nobody looks."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    if hasattr(server, "instance") and hidden is not None:
        server.instance.send_progress_text(text, hidden.unique_id)
