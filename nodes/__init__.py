"""The pack's nodes, and everything that touches ComfyUI."""


async def comfy_entrypoint():
    from .extension import GligenExtension

    return GligenExtension()
