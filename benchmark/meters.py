"""What a run costs: time, arithmetic, memory, calls of the UNet."""

import time
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def cpu_attention_flops(query, key, value, *args, **kwargs) -> int:
    """Of their shapes: torch counts this attention on a GPU only."""
    return sdpa_flop_count(query, key, value)


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention_flops,
}


@dataclass(frozen=True)
class Cost:
    flops: int
    peak: int  # bytes that tensors made in the run held at once
    calls: int  # of the UNet


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still there. Those of before do not count,
    so that it is the same on any machine."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        before = {self._key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and self._key(tensor) not in before:
                self._count(tensor.untyped_storage())
        return result

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _count(self, storage) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def cost(run: Callable[[], object], unet: torch.nn.Module) -> Cost:
    """Of one run, which these meters slow down."""
    calls = []
    hook = unet.register_forward_pre_hook(lambda *_: calls.append(1))
    flops = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    try:
        with flops, LiveBytes() as live:
            run()
    finally:
        hook.remove()
    return Cost(flops.get_total_flops(), live.peak, len(calls))


@contextmanager
def stopwatch(device: torch.device):
    """Gives a function that says, afterwards, the seconds in between: CPU seconds of the process, or
    those between two events of a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield lambda: (end.synchronize(), start.elapsed_time(end) / 1000)[1]
        end.record()
    else:
        times = [time.process_time()]
        yield lambda: times[1] - times[0]
        times.append(time.process_time())
