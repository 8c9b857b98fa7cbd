from comfy_api.latest import io

from ..gligen_ops.errors import GligenError
from ..gligen_ops.places import Box
from .layouts import regions
from .layouts.inputs import box_inputs
from .seam.conditioning import fitted, following

LINKS = {"mask": regions.of_mask, "segs": regions.of_segs, "stitcher": regions.of_stitcher}
"""How the region is read from each link."""


class GligenFitToRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenFitToRegion",
            display_name="GLIGEN Fit to Region",
            category="conditioning/gligen",
            description="Fits what a prompt grounds in a picture to a crop of it that is sampled by itself: "
            "the crop gets its part of the layout, not the whole in small. Put it after all other GLIGEN "
            "nodes.",
            search_aliases=["gligen", "crop", "detailer", "inpaint crop", "region"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt with what it grounds in the whole picture."
                ),
                *box_inputs(),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="In place of x, y, width and height: the box around what is white in it. It has "
                    "the aspect of the whole picture.",
                ),
                io.Custom("SEGS").Input(
                    "segs", optional=True,
                    tooltip="In place of those: the crop of a segment of the Impact Pack.",
                ),
                io.Custom("STITCHER").Input(
                    "stitcher", optional=True,
                    tooltip="In place of those: from Inpaint Crop of Inpaint-CropAndStitch.",
                ),
                io.Boolean.Input(
                    "follow_detailer", default=False, optional=True,
                    tooltip="For the Impact Pack's Detailers, which cut the picture by themselves: each of "
                    "their crops gets its part of the layout. Nothing else is used of this node then.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt, for the crop.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, conditioning, x, y, width, height, mask=None, segs=None, stitcher=None,
        follow_detailer=False,
    ) -> io.NodeOutput:  # fmt: skip
        if follow_detailer:
            return io.NodeOutput(following(conditioning))
        links = {"mask": mask, "segs": segs, "stitcher": stitcher}
        linked = [name for name, link in links.items() if link is not None]
        if len(linked) > 1:
            raise GligenError(f"{', '.join(linked)}: each gives a region. Link one of them.")
        found = [LINKS[name](links[name]) for name in linked] or [
            [Box.from_size(x, y, width, height)]
        ]
        return io.NodeOutput(fitted(conditioning, checked(found[0])))


def checked(boxes: list[Box]) -> list[Box]:
    """Raises GligenError for a region of which nothing is in the picture."""
    for box in boxes:
        if box.width <= 0 or box.height <= 0 or box.is_beside():
            raise GligenError(
                f"x, y, width, height: the region reaches from {box.x0:g} to {box.x1:g} in x and from "
                f"{box.y0:g} to {box.y1:g} in y, and nothing of it is in the picture. That is 0 to 1 in both."
            )
    return boxes
