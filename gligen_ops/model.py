"""A GLIGEN model: one tokenizer of grounding inputs and one gated layer for each block it grounds.

Original: the `fuser` of `BasicTransformerBlock` in ldm/modules/attention.py and the `position_net` and
`downsample_net` of `UNetModel` in ldm/modules/diffusionmodules/openaimodel.py of gligen/GLIGEN.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from .kinds import Kind
from .layers.first_conv import FirstConv
from .layers.gated_cross import GatedCrossAttention
from .layers.gated_grid import GatedGridAttention
from .layers.gated_self_attention import GatedLayer, GatedSelfAttention

FUSERS = {
    "gatedSA": GatedSelfAttention,
    "gatedSA2": GatedGridAttention,
    "gatedCA": GatedCrossAttention,
}


class Block(NamedTuple):
    """A transformer block of the UNet: `index` within the `number`-th input, middle or output block."""

    kind: str  # "input", "middle" or "output"
    number: int
    index: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number}.{self.index}"

    @property
    def key(self) -> str:
        """Prefix of its gated layer's tensors in a file."""
        parent = "middle_block" if self.kind == "middle" else f"{self.kind}_blocks.{self.number}"
        return f"{parent}.1.transformer_blocks.{self.index}.fuser"


class Gligen(nn.Module):
    """All that GLIGEN adds to a UNet.

    tokenizer: makes grounding tokens, width D. widths: C of each grounded block, in the order in which the
    UNet runs them. operations: where Linear and LayerNorm come from. fuser: the gated layers' kind, of
    `FUSERS`. first_conv: takes the place of the UNet's, where there is one. kind: what it is grounded by,
    where that is known.
    """

    def __init__(
        self,
        tokenizer: nn.Module,
        token_width: int,
        widths: Mapping[Block, int],
        operations=nn,
        fuser: str = "gatedSA",
        first_conv: FirstConv | None = None,
        kind: Kind | None = None,
    ):
        super().__init__()
        self.position_net = tokenizer
        self.token_width = token_width
        self.widths = dict(widths)
        self.fuser = fuser
        self.first_conv = first_conv
        self.kind = kind
        self.fusers = nn.ModuleDict(
            {
                str(block).replace(".", "_"): FUSERS[fuser](width, token_width, operations)
                for block, width in self.widths.items()
            }
        )
        self._layers = dict(zip(self.widths, self.fusers.values(), strict=True))

    def layer(self, block: Block) -> GatedLayer:
        return self._layers[block]


def blocks_of(unet, by_order: bool = False) -> dict[Block, int]:
    """Width C of each transformer block of a UNet of Stable Diffusion's structure, in the order in which
    they run. by_order: blocks are told by the order of their transformers alone."""
    middle = [] if unet.middle_block is None else [unet.middle_block]
    parts = (("input", unet.input_blocks), ("middle", middle), ("output", unet.output_blocks))
    widths = {}
    transformers = 0
    for kind, blocks in parts:
        for number, layers in enumerate(blocks):
            for layer in layers:
                if not hasattr(layer, "transformer_blocks"):
                    continue
                for index, block in enumerate(layer.transformer_blocks):
                    place = ("transformer", transformers) if by_order else (kind, number)
                    widths[Block(*place, index)] = block.attn1.to_q.in_features
                transformers += 1
    return widths
