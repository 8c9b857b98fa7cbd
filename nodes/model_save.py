from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..gligen_ops.errors import GligenError
from ..gligen_ops.files.checkpoint import Checkpoint, save_gligen, tensors_of
from .seam.gligens import adopted


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
                    "filename_prefix", default="gligen/gligen",
                    tooltip="Folder and beginning of the name in ComfyUI's output folder.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, gligen, filename_prefix) -> io.NodeOutput:
        loaded = adopted(gligen)
        if loaded.by_order:
            raise GligenError(
                "gligen: ComfyUI's own GLIGENLoader drops the names of the blocks, and from the "
                f"{len(loaded.net.widths)} layers of this model they cannot be told, as from those of "
                "SD 1.x and 2.x. Load the file with the GLIGEN Model Loader in its place, and save it again."
            )
        file = next_file(filename_prefix)
        model = loaded.net
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors_of(model).items()}
        checkpoint = Checkpoint(tensors, model.kind, model.fuser, loaded.name, loaded.source)
        try:
            save_gligen(checkpoint, file)
        except Exception as error:  # of the library's own, beside the system's
            raise GligenError(f"filename_prefix: {file} could not be written: {error}.") from error
        return io.NodeOutput()


def next_file(prefix: str) -> Path:
    """The first free name of this beginning in the host's output folder."""
    output = folder_paths.get_output_directory()
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, output)
    except Exception as error:  # the host's own for a folder outside, which it names in its log
        raise GligenError(
            f"filename_prefix: '{prefix}' leads out of ComfyUI's output folder or cannot be made there. "
            "Write a folder and a beginning of a name, such as gligen/gligen."
        ) from error
    return Path(folder) / f"{name}_{counter:05}_.safetensors"
