"""The pack's nodes, and everything that touches ComfyUI."""

OLDEST_HOST = (0, 16, 3)


async def comfy_entrypoint():
    check_host()
    from .extension import GligenExtension

    return GligenExtension()


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
