"""Grounded inpainting: what is known of a picture stays, and the boxes are painted."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..gligen_ops.entities import Inpainting
from ..gligen_ops.errors import GligenError
from ..gligen_ops.fitting import on_latent
from ..gligen_ops.layers.first_conv import KnownRegion
from ..gligen_ops.masks import boxes_mask
from .pictures.images import painted, three_channels
from .seam.conditioning import entities_in, frame_count, ground
from .seam.gligens import adopted


class GligenInpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenInpaint",
            display_name="GLIGEN Inpaint",
            category="conditioning/gligen",
            description="Paints the grounded objects into a picture and leaves the rest of it as it is. "
            "Best with a GLIGEN inpainting model; with any other the rest is put back at each step, "
            "without the model knowing of it.",
            search_aliases=["gligen", "inpainting", "mask", "grounding", "edit"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The prompt with its GLIGEN boxes: put this node after them.",
                ),
                io.Gligen.Input("gligen", tooltip="The GLIGEN model of the boxes."),
                io.Vae.Input("vae", tooltip="The VAE of the base model."),
                io.Image.Input("image", tooltip="The picture to be painted into."),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="What is painted anew (white). Without it: the boxes.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="The prompt, which now knows the picture."),
                io.Latent.Output(tooltip="For the sampler's latent_image: picture and mask."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, conditioning, gligen, vae, image, mask=None) -> io.NodeOutput:
        gligen = adopted(gligen)
        latent = vae.encode(three_channels(image))
        if latent.ndim != 4:
            raise GligenError(f"vae: its latents have {latent.ndim - 2} dimensions; expected 2.")
        size = tuple(latent.shape[-2:])
        if mask is None:
            mask = mask_of_boxes(conditioning, size)
        else:
            mask = on_latent(painted(mask, image), size)
        first_conv = gligen.net.first_conv
        if first_conv is not None and isinstance(first_conv.downsample_net, KnownRegion):
            mask = mask.ceil()  # the model knows no half
            count = max(len(latent), len(mask))
            frames = tuple(Inpainting(_row(latent, i), 1 - _row(mask, i)) for i in range(count))
            conditioning = ground(conditioning, gligen, [frames])
        return io.NodeOutput(conditioning, {"samples": latent, "noise_mask": mask})


def mask_of_boxes(conditioning, size: tuple[int, int]) -> Tensor:
    """[F, 1, h, w], 1 in the boxes that a CONDITIONING grounds in each picture. Raises GligenError where
    there are none."""
    masks = []
    for picture in range(frame_count(conditioning, size)):
        sketches = [entity.sketch() for entity in entities_in(conditioning, size, picture)]
        masks.append(boxes_mask([sketch.box for sketch in sketches if sketch.box], size))
    mask = torch.stack(masks)
    if not mask.any():
        raise GligenError(
            "conditioning: it has no GLIGEN boxes of a strength above 0, so there is nothing to paint. Put "
            "this node after the box nodes, or connect a mask."
        )
    return mask


def _row(batch: Tensor, i: int) -> Tensor:
    return batch[min(i, len(batch) - 1)][None]
