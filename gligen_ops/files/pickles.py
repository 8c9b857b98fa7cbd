"""What a pickle says of the tensors in a file of torch.save, with nothing in it run.

A pickle is a program, and here it has nothing to call: torch's names become notes of what to read,
those of configuration classes become `Inert`, and any other name stops the reading.
Formats: `persistent_id` in `_save` and `_legacy_save` of torch/serialization.py, and
torch/_utils.py, of pytorch/pytorch.
"""

import pickle
from collections import OrderedDict
from typing import BinaryIO, NamedTuple

import torch

from ..errors import GligenError

STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}
TENSOR_MAKERS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
PARAMETER_MAKERS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
CONFIGURATION_MODULES = {
    *("argparse", "collections", "datetime", "enum", "ldm", "omegaconf", "pathlib", "typing"),
    "pytorch_lightning",  # in Stable Diffusion's own checkpoints
}
CONFIGURATION_NAMES = {
    *(f"builtins.{t}" for t in ("bool", "bytes", "complex", "dict", "float", "frozenset", "int")),
    *(f"builtins.{t}" for t in ("list", "object", "range", "set", "slice", "str", "tuple")),
    *("builtins.long", "builtins.unicode", "builtins.xrange"),  # protocol 2's int, str and range
    *(f"torch.{t}" for t in ("bfloat16", "device", "float16", "float32")),
    *("_codecs.encode", "copyreg._reconstructor", "numpy.dtype"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
}
PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # as protocol 2 names them


class Storage(NamedTuple):
    key: str
    dtype: torch.dtype


class View(NamedTuple):
    """A tensor, as a pickle tells of it: offset in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """A configuration object: takes whatever a pickle gives it and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def ignore(self, *_):
        pass

    __init__ = __setstate__ = __setitem__ = append = extend = add = ignore


class _TensorMaker:
    __slots__ = ()  # so that a pickle has nothing of it to change

    def __call__(self, storage, offset, shape, stride, *_) -> View:
        return View(storage, offset, shape, stride)


class _ParameterMaker:
    __slots__ = ()

    def __call__(self, data, *_) -> View:
        return data


class Unpickler(pickle.Unpickler):
    """`load` gives mappings with a `View` for each tensor. Raises GligenError at a name that stands
    for neither a tensor nor a setting: what it says follows on the file's name."""

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str):
        module = PYTHON_2_MODULES.get(module, module)
        full = f"{module}.{name}"
        if full in STORAGES:
            return STORAGES[full]
        if full in TENSOR_MAKERS:
            return _TensorMaker()
        if full in PARAMETER_MAKERS:
            return _ParameterMaker()
        if full == "torch.Size":
            return tuple
        if full == "collections.OrderedDict":
            return OrderedDict
        if module.partition(".")[0] in CONFIGURATION_MODULES or full in CONFIGURATION_NAMES:
            return Inert
        raise GligenError(
            f"was not loaded, as it tries to run code ({full}), which a model never needs: get the "
            "model from a source you trust, best as safetensors."
        )

    def persistent_load(self, pid) -> Storage:
        kind, dtype, key, _, _, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise pickle.UnpicklingError(pid)
        return self.storages.setdefault(key, Storage(key, dtype))
