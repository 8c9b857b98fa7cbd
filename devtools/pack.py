"""The repository as a package, as ComfyUI imports it, in a process that is not ComfyUI's server.

`python -m devtools.pack MODULE ...` runs the `main` of one of its modules, such as measuring.measure.
"""

import importlib
import importlib.util
import os
import sys

from .environment import ROOT

PACK = "gligen_pack"


def import_host(device: str = "") -> None:
    """Make the ComfyUI of COMFYUI_PATH importable, set to a device ("cpu", "cuda" or what there is)."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        sys.exit("COMFYUI_PATH is not set: start this with `python3 dev.py`.")
    sys.path.insert(0, path)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import torch
    from comfy.cli_args import args

    args.cpu = device == "cpu" or not torch.cuda.is_available()


def load(module: str):
    """A module of the pack, such as "measuring.measures"."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules[PACK] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK])
    return importlib.import_module(f"{PACK}.{module}")


def main(module: str, *arguments: str) -> None:
    """Run a module's `main` with the host set up, its attention PyTorch's own, which can be trained."""
    import_host()
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    load(module).main(arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
