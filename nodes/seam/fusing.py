"""How the gated layers are fused into a forward of the UNet."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .compiled import compilation
from .gligens import Patch
from .grounders import Grounder
from .operations import attention_of
from .record import Record


class Fusing:
    """The way in which the gated layers are fused into the forwards of a run.

    every: how many calls share what the layers add to the visual tokens. That changes slowly: in the calls
    between it is what was kept, in proportion to β, and the picture nearly, not exactly, the same. record:
    of each attention. compile_kwargs: of torch.compile, where the host compiles the UNet. The layers are part
    of its graph where they are computed at every call and not recorded; else they stay out of it.
    """

    def __init__(
        self, every: int = 1, record: Record | None = None, compile_kwargs: dict | None = None
    ):
        self.every, self.record, self.compile_kwargs = every, record, compile_kwargs
        self.can_be_traced = compile_kwargs is not None and every == 1 and record is None
        self._kept: dict[tuple, tuple[Tensor, float, int]] = {}

    def patch(
        self, grounders: list[Grounder], beta: float, device: torch.device, convolves: bool
    ) -> Patch:
        """What the host calls in every transformer block. convolves: whether first convolutions are patched
        too, which keeps all out of a graph."""
        if self.can_be_traced and not convolves:
            level = torch.full((), beta, device=device)  # a number would be fixed in a graph
            return lambda v, extra: self.fuse(v, extra, grounders, level)
        fuse = self.fuse if self.every == 1 else self._fuse_or_keep

        def patch(v: Tensor, extra: dict) -> Tensor:
            return fuse(v, extra, grounders, beta)

        return patch if self.compile_kwargs is None else torch.compiler.disable(patch)

    def unet(self, host_unet: nn.Module, grounders: list[Grounder], convolves: bool) -> nn.Module:
        """The UNet for a forward that is patched. host_unet: the one that the host would use."""
        if self.compile_kwargs is None:
            return host_unet
        traced = grounders if self.can_be_traced and not convolves else None
        return compilation(host_unet, self.compile_kwargs, traced)

    def fuse(
        self, v: Tensor, extra: dict, grounders: list[Grounder], beta: float | Tensor
    ) -> Tensor:
        """Several GLIGENs each see the same v, and what they add is summed, so that their order does not
        matter. beta: a number, or a tensor of no dimensions."""
        grounded = [self._by(grounder, v, extra, beta) for grounder in grounders]
        return grounded[0] if len(grounded) == 1 else v + sum(g - v for g in grounded)

    def _fuse_or_keep(
        self, v: Tensor, extra: dict, grounders: list[Grounder], beta: float
    ) -> Tensor:
        # The grounders of a call stay the same objects for a run.
        key = grounders[0], *extra["block"], extra["block_index"]
        residual, at_beta, uses = self._kept.get(key, (None, 1.0, self.every))
        if uses == self.every or residual.shape != v.shape:
            grounded = self.fuse(v, extra, grounders, beta)
            self._kept[key] = grounded - v, beta, 1
            return grounded
        self._kept[key] = residual, at_beta, uses + 1
        return v + residual * (beta / at_beta)

    def _by(self, grounder: Grounder, v: Tensor, extra: dict, beta: float | Tensor) -> Tensor:
        layer, keys, gates = grounder.prepared(v, extra)
        attention = attention_of(extra)
        if self.record is not None:
            attention = self._recorded(attention, grounder, extra, gates)
        grid = tuple(extra["activations_shape"][-2:])
        rows, beta = grounder.rows_of(v), beta * grounder.strength
        grounded = layer(rows, keys, extra["n_heads"], gates, beta, attention, grid)
        return grounder.put_back(v, grounded)

    def _recorded(
        self, attention: Callable, grounder: Grounder, extra: dict, gates: tuple[Tensor, Tensor]
    ) -> Callable[..., Tensor]:
        def recorded(q, k, v, heads, mask=None):
            self.record.add(q, k, heads, mask, grounder, extra, gates)
            return attention(q, k, v, heads, mask)

        return recorded
