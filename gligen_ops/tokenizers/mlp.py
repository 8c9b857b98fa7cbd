"""The MLP that makes a grounding token: GLIGEN (arXiv 2301.07093), equation 5.

Original: `linears` of each `PositionNet` in ldm/modules/diffusionmodules of gligen/GLIGEN.
"""

from torch import nn

from ..shapes import Axes

HIDDEN = 512  # in all of the authors' models


def token_mlp(inputs: int, outputs: int, operations=nn, hidden: int = HIDDEN) -> nn.Sequential:
    """[..., inputs] → [..., outputs], over two hidden layers with SiLU."""
    return nn.Sequential(
        operations.Linear(inputs, hidden),
        nn.SiLU(),
        operations.Linear(hidden, hidden),
        nn.SiLU(),
        operations.Linear(hidden, outputs),
    )


def mlp_sizes(name: str) -> dict[str, Axes]:
    """The tensors that decide the sizes of a tokenizer's MLP of this name, and their axes."""
    return {f"{name}.0.bias": ("hidden",), f"{name}.4.bias": ("token_width",)}
