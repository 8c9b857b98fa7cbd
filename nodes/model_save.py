from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..gligen_ops.checkpoint import Checkpoint, save_gligen, tensors_of
from .block_names import named
from .seat import own


class GligenModelSave(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenModelSave",
            display_name="GLIGEN Model Save",
            category="model/merging",
            description="Saves the GLIGEN part alone as safetensors: of a file of several gigabytes a few "
            "hundred megabytes. Move the file from output into models/gligen.",
            search_aliases=["gligen", "export", "prune", "convert", "safetensors"],
            inputs=[
                io.Gligen.Input("gligen", tooltip="From the GLIGEN Model Loader."),
                io.String.Input(
                    "filename_prefix",
                    default="gligen/gligen",
                    tooltip="Folder and beginning of the name in ComfyUI's output folder.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, gligen, filename_prefix) -> io.NodeOutput:
        seat = own(gligen).model
        model = seat.gligen
        tensors = named(model, tensors_of(model))
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = Path(folder) / f"{name}_{counter:05}_.safetensors"
        checkpoint = Checkpoint(tensors, model.kind, model.fuser, seat.name, seat.source)
        save_gligen(checkpoint, file)
        return io.NodeOutput()
