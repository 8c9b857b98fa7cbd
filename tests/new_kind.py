"""A kind of grounding that is not in the pack: things at points. docs/new-kind.md walks through it.

In the pack the first half would be gligen_ops/tokenizers/points.py, and the second nodes/point.py.
"""

# ------------------------------------------------------------ the tokenizer

from dataclasses import dataclass, replace

import torch
from gligen_pack.gligen_ops.entities import Entity
from gligen_pack.gligen_ops.kinds import Kind
from gligen_pack.gligen_ops.places import Box, Sketch
from gligen_pack.gligen_ops.tokenizers.fourier import fourier_embedding, fourier_width
from gligen_pack.gligen_ops.tokenizers.mlp import HIDDEN, mlp_sizes, token_mlp
from gligen_pack.gligen_ops.tokenizers.slots import filled, or_null
from gligen_pack.gligen_ops.tokenizers.tokenizer import Tokenizer
from torch import Tensor, nn

SLOTS = 12


@dataclass(frozen=True, eq=False)
class Spot(Entity):
    """A thing at a point."""

    x: float
    y: float
    phrase: str
    text: Tensor  # [F]

    def within(self, region: Box) -> "Spot | None":
        x, y = (self.x - region.x0) / region.width, (self.y - region.y0) / region.height
        return replace(self, x=x, y=y) if 0 <= x <= 1 and 0 <= y <= 1 else None

    def placed_in(self, area: Box) -> "Spot":
        return replace(self, x=area.x0 + self.x * area.width, y=area.y0 + self.y * area.height)

    def label(self) -> str:
        return self.phrase

    def sketch(self) -> Sketch:
        return Sketch(dots=((self.x, self.y),))


class PointTokenizer(Tokenizer):
    """h^e = MLP([f_text(e), Fourier(l)]) for an entity with phrase e at the point l."""

    kinds = (Kind("points", "nobody/gligen-points", {"position_net.null_point_feature": None}),)
    sizes = {"null_text_feature": ("text_width",)} | mlp_sizes("linears")
    slots = SLOTS
    slot_of_token = list(range(SLOTS))

    def __init__(self, text_width: int, token_width: int, operations=nn, hidden: int = HIDDEN):
        super().__init__()
        self.linears = token_mlp(text_width + fourier_width(2), token_width, operations, hidden)
        self.null_text_feature = nn.Parameter(torch.zeros(text_width))
        self.null_point_feature = nn.Parameter(torch.zeros(fourier_width(2)))

    def inputs(self, entities: list[Spot]) -> tuple[Tensor, ...]:
        points, mask = filled([torch.tensor([e.x, e.y]) for e in entities], SLOTS, 2)
        text, _ = filled([e.text for e in entities], SLOTS, len(self.null_text_feature))
        return points, mask, text

    def forward(self, points: Tensor, mask: Tensor, text: Tensor) -> Tensor:
        position = or_null(fourier_embedding(points), mask, self.null_point_feature)
        return self.linears(torch.cat([or_null(text, mask, self.null_text_feature), position], -1))


# ------------------------------------------------------------ the node

from comfy_api.latest import io  # noqa: E402
from gligen_pack.nodes.encoders.phrases import phrase_features  # noqa: E402
from gligen_pack.nodes.layouts.inputs import share, strength  # noqa: E402
from gligen_pack.nodes.seam.conditioning import ground  # noqa: E402
from gligen_pack.nodes.seam.gligens import need  # noqa: E402


class GligenPoint(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenPoint",
            display_name="GLIGEN Point",
            category="conditioning/gligen",
            description="Puts what the text names at a point of the image.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt, or another GLIGEN node's."
                ),
                io.Gligen.Input("gligen", tooltip="A GLIGEN model for points."),
                io.Clip.Input("clip", tooltip="The CLIP of the base model."),
                io.String.Input("text", tooltip="What appears there."),
                share("x", 0.5, "Its place, as a share of the image's width."),
                share("y", 0.5, "Its place, as a share of the image's height."),
                strength(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with this point.")],
        )

    @classmethod
    def execute(cls, conditioning, gligen, clip, text, x, y, strength=1.0) -> io.NodeOutput:
        gligen = need(gligen, PointTokenizer)
        features = phrase_features(clip, [text], len(gligen.net.position_net.null_text_feature))
        spot = Spot(x, y, text, features[text])
        return io.NodeOutput(ground(conditioning, gligen, [(spot,)], strength))
