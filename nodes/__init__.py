"""The pack's nodes, one a file, and in rooms of their own all else that touches ComfyUI. A node's file in
this folder is all that a new node needs."""

from importlib import import_module
from pkgutil import iter_modules

OLDEST_HOST = (0, 16, 3)


async def comfy_entrypoint():
    check_host()
    from comfy_api.latest import ComfyExtension

    class GligenExtension(ComfyExtension):
        async def get_node_list(self):
            return list_nodes()

    return GligenExtension()


def list_nodes() -> list[type]:
    """The node classes of the files in this folder."""
    from comfy_api.latest import io

    files = [import_module(f".{m.name}", __name__) for m in iter_modules(__path__) if not m.ispkg]
    return [
        value
        for file in files
        for value in vars(file).values()
        if isinstance(value, type)
        and issubclass(value, io.ComfyNode)
        and value.__module__ == file.__name__
    ]


def check_host() -> None:
    """Raises GligenError where ComfyUI is older than what the tests run on."""
    from comfyui_version import __version__

    from ..gligen_ops.errors import GligenError

    numbers = tuple(int(part) for part in __version__.split(".")[:3] if part.isdecimal())
    if numbers < OLDEST_HOST:
        oldest = ".".join(map(str, OLDEST_HOST))
        raise GligenError(
            f"GLIGEN needs ComfyUI {oldest} or newer, and this is {__version__}: update ComfyUI."
        )
