"""The MLP that makes a grounding token: GLIGEN (arXiv 2301.07093), equation 5.

Original: `linears` of each `PositionNet` in ldm/modules/diffusionmodules of gligen/GLIGEN.
"""

from torch import nn

from ..shapes import Shapes, agreed, vote

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


def hidden_width(shapes: Shapes, name: str) -> int:
    """Of the MLP that has tensors of these shapes under this name."""
    votes = vote(shapes, f"{name}.0.bias", 1, 0) + vote(shapes, f"{name}.4.weight", 2, 1)
    return agreed(votes + vote(shapes, f"{name}.2.bias", 1, 0), HIDDEN)
