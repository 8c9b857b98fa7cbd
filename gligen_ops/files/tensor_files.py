"""Tensors of a file, found by name without reading them: safetensors and both of torch.save's.

Only the tensors asked for are read, each into memory of its own, so the file is neither mapped nor kept
open. Formats of torch.save: `_save` and `_legacy_save` in torch/serialization.py of pytorch/pytorch.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import GligenError
from .pickle_limits import checked
from .pickles import Storage, Unpickler, View

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
SHARED = 4
"""How many times the file's size its tensors may take: some share their bytes."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class InSafetensors(NamedTuple):
    """A tensor in a safetensors file. dtype: None where it is not one of a model."""

    name: str
    dtype: torch.dtype | None

    def read(self, file: BinaryIO) -> Tensor:
        # The library maps the file. What of it was copied stays in memory until it is unmapped, so it is
        # for each tensor.
        with safe_open(file.name, framework="pt") as mapped:
            return mapped.get_tensor(self.name).clone()


class InPickle(NamedTuple):
    """A tensor in a file of torch.save. stride: in elements; start: of the first element, in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int

    @property
    def span(self) -> int:
        """Elements from the first to the last in the file."""
        steps = zip(self.shape, self.stride, strict=True)
        return 1 + sum((n - 1) * s for n, s in steps) if all(self.shape) else 0

    def read(self, file: BinaryIO) -> Tensor:
        data = torch.empty(self.span * self.dtype.itemsize, dtype=torch.uint8)
        file.seek(self.start)
        if file.readinto(data.numpy()) != data.numel():
            raise EOFError
        return data.view(self.dtype).as_strided(self.shape, self.stride)


Stored = InSafetensors | InPickle


class Contents(NamedTuple):
    """What a file holds.

    tensors: where they are; names of a mapping within the top one (`model`) begin with its key. metadata:
    what a safetensors file says of itself. strings: the texts in a file of torch.save, each once, such as
    those of a configuration."""

    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str] = {}
    strings: Sequence[str] = ()


def contents_of(path: Path) -> Contents:
    """Raises GligenError where the file cannot be opened, is no model, is damaged, or is a pickle that asks
    for more than tensors and settings."""
    with _opened(path) as file:
        head = file.read(64)
        file.seek(0)
        if head[8:9] == b"{":
            return _of_safetensors(file)
        if head.startswith(b"PK\x03\x04"):
            return _of_zip(file)
        if head.startswith(b"\x80"):
            return _of_legacy(file)
        raise GligenError(f"is {_what(head)}: download the model's own file.")


def read_tensors(path: Path, stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """Raises GligenError where the file cannot be opened or ends too early."""
    with _opened(path) as file:
        return {name: tensor.read(file) for name, tensor in stored.items()}


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file. What goes wrong with it becomes a GligenError that names it."""
    try:
        str(path).encode()  # as the library reads it
        if path.exists() and not path.is_file():
            raise GligenError("cannot be opened: it is a folder or a device and not a file.")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        problem = f"cannot be opened: {error.strerror or error}."
        raise GligenError(f"{path.name} {problem}") from error
    except GligenError as error:
        raise GligenError(f"{path.name} {error}") from error
    except UnicodeEncodeError as error:
        shown = path.name.encode("utf-8", "replace").decode()
        raise GligenError(f"{shown} has a name that is no text: rename it.") from error
    except Exception as error:  # whatever the bytes of a damaged or hostile file lead to
        raise GligenError(f"{path.name} is damaged or incomplete: download it again.") from error


def _what(head: bytes) -> str:
    if not head:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the file it stands for"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page and not a model"
    return "neither a safetensors file nor a PyTorch checkpoint"


def _of_safetensors(file: BinaryIO) -> Contents:
    with safe_open(file.name, framework="pt") as mapped:
        dtypes = {name: mapped.get_slice(name).get_dtype() for name in mapped.keys()}
        metadata = mapped.metadata() or {}
    tensors = {n: InSafetensors(n, SAFETENSORS_DTYPES.get(dtype)) for n, dtype in dtypes.items()}
    return Contents(tensors, metadata)


def _of_zip(file: BinaryIO) -> Contents:
    root, records = _records(file)
    pickled = io.BytesIO(_content(file, records[f"{root}data.pkl"]))
    saved, storages, strings = _unpickled(pickled)
    places = {key: _place(file, records[f"{root}data/{key}"]) for key in storages}
    return Contents(_stored(saved, places, file.seek(0, io.SEEK_END)), strings=strings)


def _records(file: BinaryIO) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The folder that a model is in, and all records of an archive by their names."""
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: info for info in archive.infolist()}
    pickled = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if not pickled:
        raise GligenError("is a zip archive without a model in it: unpack it first.")
    root = pickled[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in records and _content(file, records[order]) != b"little":
        raise GligenError("was saved on a big-endian computer: save it again on another.")
    return root, records


def _content(file: BinaryIO, record: zipfile.ZipInfo) -> bytes:
    start, size = _place(file, record)
    file.seek(start)
    return file.read(size)


def _place(file: BinaryIO, record: zipfile.ZipInfo) -> tuple[int, int]:
    """Start and size of a record's bytes (`zipfile` would insist on a CRC that torch may omit)."""
    if record.compress_type != zipfile.ZIP_STORED:
        raise GligenError("is a compressed zip archive: unpack it first.")
    file.seek(record.header_offset + 26)
    lengths = file.read(4)  # of the name and of the extra field, which end the 30 bytes of header
    skip = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    return record.header_offset + 30 + skip, record.file_size


def _of_legacy(file: BinaryIO) -> Contents:
    if _unpickled(file)[0] != LEGACY_MAGIC:
        raise GligenError("is a pickle, but not one of PyTorch: download the model's own file.")
    for _ in ("protocol", "system"):
        _unpickled(file)
    saved, storages, strings = _unpickled(file)
    places = {}
    for key in _unpickled(file)[0]:
        size = int.from_bytes(file.read(8), "little") * storages[key].dtype.itemsize
        places[key] = (file.tell(), size)
        file.seek(size, io.SEEK_CUR)
    return Contents(_stored(saved, places, file.seek(0, io.SEEK_END)), strings=strings)


def _unpickled(file: BinaryIO) -> tuple[object, dict[str, Storage], list[str]]:
    """What was saved in the pickle at the file's place, its storages, and the texts in it, in order."""
    start = file.tell()
    strings = checked(file)
    file.seek(start)
    unpickler = Unpickler(file)
    return unpickler.load(), unpickler.storages, strings


def _stored(saved, places: Mapping[str, tuple[int, int]], length: int) -> dict[str, InPickle]:
    """The tensors in what was saved. places: start and size of each storage, length: that of the file, in
    bytes."""
    tensors, memory = {}, 0
    for name, (storage, offset, shape, stride) in _views(saved):
        start, size = places[storage.key]
        first = start + index(offset) * storage.dtype.itemsize
        stored = InPickle(storage.dtype, tuple(map(index, shape)), tuple(map(index, stride)), first)
        end = (offset + stored.span) * storage.dtype.itemsize
        memory += max(stored.span, math.prod(stored.shape)) * storage.dtype.itemsize
        if min(offset, *shape, *stride, 0) < 0 or end > size or start + size > length:
            raise ValueError(name)
        if memory > SHARED * length:
            raise ValueError("views of the same bytes, again and again")
        tensors[name] = stored
    return tensors


def _views(saved) -> Iterator[tuple[str, View]]:
    for name, value in saved.items() if isinstance(saved, dict) else ():
        if isinstance(value, View):
            yield str(name), value
        elif isinstance(value, dict):
            inside = ((k, v) for k, v in value.items() if isinstance(v, View))
            yield from ((f"{name}.{k}", v) for k, v in inside)
