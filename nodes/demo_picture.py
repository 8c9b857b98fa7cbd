import torch
from comfy_api.latest import io

from ..demo import world
from ..gligen_ops.entities import PhraseBox
from .layouts.boxes import gather_frames
from .layouts.problems import Problems

EXAMPLE = "a red star: 0.2, 0.2, 0.6, 0.6"
SHAPES = (*world.SHAPES, world.FIGURE)
KNOWN = f"Colours: {', '.join(world.COLOURS)}. Shapes: {', '.join(SHAPES)}."


class GligenDemoPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenDemoPicture",
            display_name="GLIGEN Demo Picture",
            category="conditioning/gligen",
            description="Paints a picture of the GLIGEN Demo Model's world, 128×128: something to use as "
            "reference, to take edges from or to paint into, without a download.",
            search_aliases=["gligen", "demo", "example", "reference image"],
            inputs=[
                io.String.Input(
                    "things", default=EXAMPLE, multiline=True,
                    tooltip="One thing a line, as colour shape: x, y, width, height, in fractions of the "
                    f"image. {KNOWN}",
                ),
                io.Combo.Input(
                    "light", options=list(world.LIGHTS), tooltip="Where light comes from."
                ),
            ],
            outputs=[io.Image.Output(tooltip="The picture.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, things, light) -> io.NodeOutput:
        scene = world.Scene(things_of(gather_frames(things)[0]), light)
        return io.NodeOutput(torch.from_numpy(world.render(scene))[None])


def things_of(boxes: list[PhraseBox]) -> tuple[world.Thing, ...]:
    """Raises GligenError that names every phrase with another colour or shape than the world has."""
    things, problems = [], Problems()
    for entity in boxes:
        words = entity.phrase.lower().split()[-2:]
        box = (entity.box.x0, entity.box.y0, entity.box.x1, entity.box.y1)
        if len(words) < 2 or words[0] not in world.COLOURS or words[1] not in SHAPES:
            problems.add(f"things: '{entity.phrase}' is no colour and shape of the demo's world.")
        elif words[1] == world.FIGURE:
            things.append(world.standing(words[0], box))
        else:
            things.append(world.Thing(*words, box))
    problems.refuse(cure=KNOWN)
    return tuple(things)
