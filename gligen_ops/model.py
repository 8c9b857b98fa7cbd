"""A GLIGEN model: one tokenizer of grounding inputs and one gated layer for each block it grounds.

Original: the `fuser` of `BasicTransformerBlock` in ldm/modules/attention.py and the `position_net` of
`UNetModel` in ldm/modules/diffusionmodules/openaimodel.py of gligen/GLIGEN.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from .gated import GatedSelfAttention


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
    """tokenizer: makes grounding tokens, width D. widths: C of each grounded block, in the order in
    which the UNet runs them. operations: where Linear and LayerNorm come from."""

    def __init__(
        self, tokenizer: nn.Module, token_width: int, widths: Mapping[Block, int], operations=nn
    ):
        super().__init__()
        self.position_net = tokenizer
        self.token_width = token_width
        self.widths = dict(widths)
        self.fusers = nn.ModuleDict(
            {str(b).replace(".", "_"): GatedSelfAttention(c, token_width, operations)
             for b, c in self.widths.items()}
        )  # fmt: skip
        self._layers = dict(zip(self.widths, self.fusers.values(), strict=True))

    def layer(self, block: Block) -> GatedSelfAttention:
        return self._layers[block]
