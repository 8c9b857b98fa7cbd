"""The MLP that makes a grounding token: GLIGEN (arXiv 2301.07093), equation 5.

Original: `linears` of each `PositionNet` in ldm/modules/diffusionmodules of gligen/GLIGEN.
"""

from torch import nn

HIDDEN = 512


def token_mlp(inputs: int, outputs: int, operations=nn) -> nn.Sequential:
    """[..., inputs] → [..., outputs], over two hidden layers of width 512 with SiLU."""
    return nn.Sequential(
        operations.Linear(inputs, HIDDEN),
        nn.SiLU(),
        operations.Linear(HIDDEN, HIDDEN),
        nn.SiLU(),
        operations.Linear(HIDDEN, outputs),
    )
