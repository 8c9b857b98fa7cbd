"""How the gated layers are fused into a forward of the UNet: one way, chosen for a run.

Each way makes the patch that the host calls in every transformer block, and says which UNet the forward
uses where the host compiles it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attending import attention_of
from .compiled import compilation
from .gligens import Patch
from .parts import Part, Prepared

Look = Callable[..., None]
"""q [B, N, C], k [B, M, C], heads, mask, part, extra, gates of an attention of a gated layer."""


class Fusing:
    """Each gated layer is computed at each call of the model."""

    def patch(self, parts: list[Part], beta: float, device: torch.device) -> Patch:
        return lambda v, extra: self.fuse(v, extra, parts, beta)

    def unet(self, compiled: nn.Module, parts: list[Part]) -> nn.Module:
        """The UNet for a forward that is patched. compiled: the one that the host would use."""
        return compiled

    def fuse(self, v: Tensor, extra: dict, parts: list[Part], beta: float | Tensor) -> Tensor:
        """Several GLIGENs each see the same v, and what they add is summed, so that their order does not
        matter. beta: a number, or a tensor of no dimensions."""
        grounded = [self._by(part, v, extra, beta) for part in parts]
        return grounded[0] if len(grounded) == 1 else v + sum(g - v for g in grounded)

    def _by(self, part: Part, v: Tensor, extra: dict, beta: float | Tensor) -> Tensor:
        prepared = layer, keys, gates = part.prepared(v, extra)
        grid = tuple(extra["activations_shape"][-2:])
        attention = self.attention(part, extra, prepared)
        rows = part.rows_of(v)
        grounded = layer(rows, keys, extra["n_heads"], gates, beta * part.strength, attention, grid)
        return part.put_back(v, grounded)

    def attention(self, part: Part, extra: dict, prepared: Prepared) -> Callable[..., Tensor]:
        return attention_of(extra)


class Watched(Fusing):
    """As `Fusing`, and tells of each attention."""

    def __init__(self, look: Look):
        self.look = look

    def attention(self, part: Part, extra: dict, prepared: Prepared) -> Callable[..., Tensor]:
        attend = attention_of(extra)

        def attention(q, k, v, heads, mask=None):
            self.look(q, k, heads, mask, part, extra, prepared[2])
            return attend(q, k, v, heads, mask)

        return attention


class Kept(Fusing):
    """What the gated layers add to the visual tokens changes slowly from call to call, and is kept for a few
    of them: the picture is nearly, not exactly, the same. A residual that is kept is added in proportion
    to β. every: how many calls share one."""

    def __init__(self, fusing: Fusing, every: int):
        self.fusing, self.every = fusing, every
        self._kept: dict[tuple, tuple[Tensor, float, int]] = {}

    def patch(self, parts: list[Part], beta: float, device: torch.device) -> Patch:
        call = parts[0]  # the parts of a call stay the same objects for a run

        def patch(v, extra):
            key = call, *extra["block"], extra["block_index"]
            residual, at_beta, uses = self._kept.get(key, (None, 1.0, self.every))
            if uses == self.every or residual.shape != v.shape:
                grounded = self.fusing.fuse(v, extra, parts, beta)
                self._kept[key] = grounded - v, beta, 1
                return grounded
            self._kept[key] = residual, at_beta, uses + 1
            return v + residual * (beta / at_beta)

        return patch


class Untraced(Fusing):
    """The way of another, kept out of the graph of a UNet that the host compiles."""

    def __init__(self, fusing: Fusing, kwargs: dict):
        self.fusing, self.kwargs = fusing, kwargs

    def patch(self, parts: list[Part], beta: float, device: torch.device) -> Patch:
        return torch.compiler.disable(self.fusing.patch(parts, beta, device))

    def unet(self, compiled: nn.Module, parts: list[Part]) -> nn.Module:
        return compilation(compiled, self.kwargs, None)


class Traced(Fusing):
    """The gated layers are part of the graph of a UNet that the host compiles. kwargs: torch.compile's."""

    def __init__(self, kwargs: dict):
        self.kwargs = kwargs

    def patch(self, parts: list[Part], beta: float, device: torch.device) -> Patch:
        level = torch.full((), beta, device=device)  # a number would be fixed in a graph
        return lambda v, extra: self.fuse(v, extra, parts, level)

    def unet(self, compiled: nn.Module, parts: list[Part]) -> nn.Module:
        return compilation(compiled, self.kwargs, parts)


def fusing_for(
    refresh_every: int, look: Look | None, compile_kwargs: dict | None, convolves: bool
) -> Fusing:
    """compile_kwargs: of torch.compile, where the host compiles the UNet. convolves: whether first
    convolutions are patched too, which stays out of a graph."""
    fusing = Fusing() if look is None else Watched(look)
    if refresh_every > 1:
        fusing = Kept(fusing, refresh_every)
    if compile_kwargs is None:
        return fusing
    if type(fusing) is Fusing and not convolves:
        return Traced(compile_kwargs)
    return Untraced(fusing, compile_kwargs)
