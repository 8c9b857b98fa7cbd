"""How the gated layers are fused into a forward of the UNet: one way, chosen for a run.

Each way makes the patch that the host calls in every transformer block, and says which UNet the forward
uses where the host compiles it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .compiled import compilation
from .gligens import Patch
from .grounders import Grounder, Prepared
from .operations import attention_of
from .record import Record


class Fusing:
    """The plain way: each gated layer is computed at each call of the model."""

    def patch(self, grounders: list[Grounder], beta: float, device: torch.device) -> Patch:
        return lambda v, extra: self.fuse(v, extra, grounders, beta)

    def unet(self, compiled: nn.Module, grounders: list[Grounder]) -> nn.Module:
        """The UNet for a forward that is patched. compiled: the one that the host would use."""
        return compiled

    def fuse(
        self, v: Tensor, extra: dict, grounders: list[Grounder], beta: float | Tensor
    ) -> Tensor:
        """Several GLIGENs each see the same v, and what they add is summed, so that their order does not
        matter. beta: a number, or a tensor of no dimensions."""
        grounded = [self._by(grounder, v, extra, beta) for grounder in grounders]
        return grounded[0] if len(grounded) == 1 else v + sum(g - v for g in grounded)

    def _by(self, grounder: Grounder, v: Tensor, extra: dict, beta: float | Tensor) -> Tensor:
        prepared = layer, keys, gates = grounder.prepared(v, extra)
        grid = tuple(extra["activations_shape"][-2:])
        attention = self.attention(grounder, extra, prepared)
        rows = grounder.rows_of(v)
        grounded = layer(
            rows, keys, extra["n_heads"], gates, beta * grounder.strength, attention, grid
        )
        return grounder.put_back(v, grounded)

    def attention(
        self, grounder: Grounder, extra: dict, prepared: Prepared
    ) -> Callable[..., Tensor]:
        return attention_of(extra)


class Recorded(Fusing):
    """The plain way, with a record of each attention."""

    def __init__(self, record: Record):
        self.record = record

    def attention(
        self, grounder: Grounder, extra: dict, prepared: Prepared
    ) -> Callable[..., Tensor]:
        attend = attention_of(extra)

        def attention(q, k, v, heads, mask=None):
            self.record.add(q, k, heads, mask, grounder, extra, prepared[2])
            return attend(q, k, v, heads, mask)

        return attention


class Kept(Fusing):
    """The way of another, at every so many calls. What the gated layers add to the visual tokens changes
    slowly, and in the calls between it is what was kept, in proportion to β: the picture is nearly, not
    exactly, the same. every: how many calls share what is kept."""

    def __init__(self, fusing: Fusing, every: int):
        self.fusing, self.every = fusing, every
        self._kept: dict[tuple, tuple[Tensor, float, int]] = {}

    def patch(self, grounders: list[Grounder], beta: float, device: torch.device) -> Patch:
        call = grounders[0]  # the grounders of a call stay the same objects for a run

        def patch(v, extra):
            key = call, *extra["block"], extra["block_index"]
            residual, at_beta, uses = self._kept.get(key, (None, 1.0, self.every))
            if uses == self.every or residual.shape != v.shape:
                grounded = self.fusing.fuse(v, extra, grounders, beta)
                self._kept[key] = grounded - v, beta, 1
                return grounded
            self._kept[key] = residual, at_beta, uses + 1
            return v + residual * (beta / at_beta)

        return patch


class Untraced(Fusing):
    """The way of another, which stays out of the graph of a UNet that the host compiles."""

    def __init__(self, fusing: Fusing, kwargs: dict):
        self.fusing, self.kwargs = fusing, kwargs

    def patch(self, grounders: list[Grounder], beta: float, device: torch.device) -> Patch:
        return torch.compiler.disable(self.fusing.patch(grounders, beta, device))

    def unet(self, compiled: nn.Module, grounders: list[Grounder]) -> nn.Module:
        return compilation(compiled, self.kwargs, None)


class Traced(Fusing):
    """The plain way, as a part of the graph of a UNet that the host compiles. kwargs: torch.compile's."""

    def __init__(self, kwargs: dict):
        self.kwargs = kwargs

    def patch(self, grounders: list[Grounder], beta: float, device: torch.device) -> Patch:
        level = torch.full((), beta, device=device)  # a number would be fixed in a graph
        return lambda v, extra: self.fuse(v, extra, grounders, level)

    def unet(self, compiled: nn.Module, grounders: list[Grounder]) -> nn.Module:
        return compilation(compiled, self.kwargs, grounders)


def fusing_for(
    refresh_every: int, record: Record | None, compile_kwargs: dict | None, convolves: bool
) -> Fusing:
    """compile_kwargs: of torch.compile, where the host compiles the UNet. convolves: whether first
    convolutions are patched too, which stays out of a graph."""
    fusing = Fusing() if record is None else Recorded(record)
    if refresh_every > 1:
        fusing = Kept(fusing, refresh_every)
    if compile_kwargs is None:
        return fusing
    if type(fusing) is Fusing and not convolves:
        return Traced(compile_kwargs)
    return Untraced(fusing, compile_kwargs)
