"""Numbers of files: every dtype, stride and place is read as what it was written as."""

import io
import pickle
import sys
import zipfile

import pytest
import torch
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.files.pickle_limits import checked
from gligen_pack.gligen_ops.files.pickles import Inert, Storage, Unpickler
from gligen_pack.gligen_ops.files.tensor_files import contents_of, read_tensors
from safetensors.torch import save_file

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FLOATS_OF_8_BITS = [torch.float8_e4m3fn, torch.float8_e5m2]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
OTHERS = [torch.bool, torch.complex64, torch.complex128]


def save_zip(path, tensors):
    torch.save(tensors, path)


def save_legacy(path, tensors):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def back(path):
    return read_tensors(path, contents_of(path).tensors)


def numbers(dtype):
    """Of two sizes, none of them the same read as another dtype."""
    generator = torch.Generator().manual_seed(1)
    small = torch.randn(3, 5, generator=generator) * 4
    large = torch.randn(7, 2, 4, generator=generator) * 4
    return {"small": small.to(dtype), "large": large.to(dtype)}


def assert_same(read, written):
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name].to(torch.complex128), tensor.to(torch.complex128)), name


@pytest.mark.parametrize(
    "save, dtype",
    [
        *((save_file, dtype) for dtype in FLOATS + FLOATS_OF_8_BITS),
        *((save_zip, dtype) for dtype in FLOATS + INTEGERS + OTHERS),
        *((save_legacy, dtype) for dtype in FLOATS + INTEGERS + OTHERS),
    ],
    ids=lambda value: getattr(value, "__name__", str(value).removeprefix("torch.")),
)
def test_numbers_are_read_as_the_dtype_they_were_written_in(tmp_path, save, dtype):
    written = numbers(dtype)
    if save is save_file:
        save_file(written, tmp_path / "file")
    else:
        save(tmp_path / "file", written)
    assert_same(back(tmp_path / "file"), written)


def test_the_two_floats_of_8_bits_are_told_apart_by_what_they_are_worth(tmp_path):
    """0x48 is 4 where four bits are the exponent, and 8 where five are."""
    byte = torch.tensor([0x48], dtype=torch.uint8)
    written = {str(dtype): byte.clone().view(dtype) for dtype in FLOATS_OF_8_BITS}
    save_file(written, tmp_path / "file")
    assert {name: t.float().item() for name, t in back(tmp_path / "file").items()} == {
        "torch.float8_e4m3fn": 4.0,
        "torch.float8_e5m2": 8.0,
    }


def test_integers_of_safetensors_are_no_dtype_of_a_model(tmp_path):
    save_file(numbers(torch.int8) | {"float": torch.ones(1)}, tmp_path / "file")
    dtypes = {name: stored.dtype for name, stored in contents_of(tmp_path / "file").tensors.items()}
    assert dtypes == {"small": None, "large": None, "float": torch.float32}


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_storages_of_several_sizes_lie_one_after_the_other(tmp_path, save):
    mixed = [torch.float16, torch.float64, torch.uint8, torch.float32, torch.bfloat16]
    written = {str(dtype): numbers(dtype)["large"] for dtype in mixed}
    written |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(0.25), "after": torch.ones(3)}
    save(tmp_path / "file", written)
    assert_same(back(tmp_path / "file"), written)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_views_begin_at_their_offset_and_go_by_their_strides(tmp_path, save, dtype):
    whole = torch.arange(60).to(dtype).view(3, 4, 5)
    written = {
        "whole": whole,
        "last": whole[2],
        "column": whole[1, :, 3],
        "turned": whole.permute(2, 0, 1),
        "sparse": whole[::2, 1::2, ::4],
        "repeated": whole[1, 2, 3].expand(2, 3),
        "to the very end": whole[2, 3, 1:],
        "nothing": whole[3:],
        "nothing by threes": whole[2, :0, ::3],
    }
    save(tmp_path / "file", written)
    assert_same(back(tmp_path / "file"), written)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_tensors_of_a_mapping_within_are_named_with_its_key(tmp_path, save):
    a, b, c = torch.randn(3, 2)
    save(tmp_path / "file", {"w": a, "model": {"w": b}, "ema": {"w": c, "no": {"w": a}}, "n": 3})
    assert_same(back(tmp_path / "file"), {"w": a, "model.w": b, "ema.w": c})


def test_a_view_is_read_without_what_lies_around_it(tmp_path):
    whole = torch.arange(1000.0)
    save_zip(tmp_path / "file", {"part": whole[500:510:3]})
    stored = contents_of(tmp_path / "file").tensors["part"]
    assert stored.span == 10
    assert stored.read((tmp_path / "file").open("rb")).untyped_storage().nbytes() == 40


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize(
    "offset, shape", [(1, (4,)), (0, (2, 3)), (-1, (1,)), (0, (5,)), (5, (1,))]
)
def test_a_view_beyond_its_storage_is_damage(tmp_path, save, dtype, offset, shape):
    class Odd:
        def __reduce__(self):
            storage = torch.arange(4).to(dtype)._typed_storage()
            stride = torch.empty(shape, device="meta").stride()
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, stride, False, {})

    # What comes after it in the file is enough to read it from.
    save(tmp_path / "file", {"odd": Odd(), "more": torch.zeros(100, dtype=dtype)})
    with pytest.raises(GligenError, match="damaged or incomplete"):
        contents_of(tmp_path / "file")


@pytest.mark.parametrize("order, taken", [("little", True), ("big", False)])
def test_a_file_of_a_big_endian_computer_is_refused(tmp_path, monkeypatch, order, taken):
    monkeypatch.setattr(sys, "byteorder", order)
    save_zip(tmp_path / "file", {"a": torch.ones(2)})
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "file") as archive:
        assert archive.read("file/byteorder") == order.encode()
    if taken:
        assert back(tmp_path / "file")["a"].tolist() == [1, 1]
    else:
        with pytest.raises(GligenError, match="file was saved on a big-endian computer"):
            contents_of(tmp_path / "file")


def test_a_file_that_does_not_tell_its_byte_order_is_a_little_endian_one(tmp_path):
    """As those of PyTorch before 2.1."""
    save_zip(tmp_path / "new", {"a": torch.tensor([1.0, -2.5])})
    with zipfile.ZipFile(tmp_path / "new") as new, zipfile.ZipFile(tmp_path / "old", "w") as old:
        for info in new.infolist():
            if not info.filename.endswith("byteorder"):
                old.writestr(info.filename, new.read(info))
    assert back(tmp_path / "old")["a"].tolist() == [1, -2.5]


def test_records_with_long_extra_fields_begin_after_them(tmp_path):
    """Zip archives pad with them: a length takes two bytes."""
    save_zip(tmp_path / "plain", {"a": torch.tensor([1.0, -2.5])})
    with (
        zipfile.ZipFile(tmp_path / "plain") as plain,
        zipfile.ZipFile(tmp_path / "padded", "w") as padded,
    ):
        for info in plain.infolist():
            copy = zipfile.ZipInfo(info.filename)
            copy.extra = b"FB" + (700).to_bytes(2, "little") + b"Z" * 700
            padded.writestr(copy, plain.read(info))
    assert back(tmp_path / "padded")["a"].tolist() == [1, -2.5]


def test_a_file_that_shrank_since_it_was_looked_at_is_damage(tmp_path):
    save_file({"a": torch.ones(100)}, tmp_path / "file")
    stored = contents_of(tmp_path / "file").tensors
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(content[:-1])
    with pytest.raises(GligenError, match="damaged or incomplete"):
        read_tensors(tmp_path / "file", stored)


def test_a_storage_within_another_is_not_taken_for_a_whole_one():
    """Old files of PyTorch may hold them, and begin at a place of their own."""
    named = ("storage", torch.float32, "0", "cpu", 4)
    unpickler = Unpickler(io.BytesIO())
    assert unpickler.persistent_load((*named, None)) == Storage("0", torch.float32)
    with pytest.raises(pickle.UnpicklingError):
        unpickler.persistent_load((*named, ("1", 2, 2)))


@pytest.mark.parametrize(
    "module, name", [("__builtin__", "set"), ("copy_reg", "_reconstructor"), ("builtins", "set")]
)
def test_settings_of_python_2_are_taken_by_their_names_there(module, name):
    assert Unpickler(io.BytesIO()).find_class(module, name) is Inert


def nested(levels, make):
    """A dict whose key is a tuple of tuples of tuples …"""
    return b"\x80\x02})" + b"".join(make(i) for i in range(levels)) + b"Ns."


HOSTILE = {
    "a number far beyond all values": b"\x80\x02}r\xff\xff\xff\x0f.",
    "the same as text": b"\x80\x02}p268435455\n.",
    "a key a million deep": nested(1_000_000, lambda _: b"\x85"),
    "a key that doubles": nested(60, lambda i: b"q%ch%c\x86" % (i, i)),
    "values that double": b"\x80\x02}K\x00)"
    + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
    + b"s.",
}


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_far_too_much_is_refused_unread(tmp_path, pickled, zipped):
    file = tmp_path / "model.bin"
    if zipped:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", pickled)
    else:
        file.write_bytes(pickled)
    with pytest.raises(
        GligenError, match="model.bin is a pickle that asks for far more memory or time"
    ):
        contents_of(file)


def test_a_pickle_of_a_model_costs_little():
    tensors = {f"{i}.weight": torch.zeros(2) for i in range(2000)}
    saved = io.BytesIO()
    torch.save({"model": tensors, "config": {"a": [{"b": (1, (2, "text"))}]}}, saved)
    with zipfile.ZipFile(saved) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        texts = checked(io.BytesIO(archive.read(name)))
    assert "1999.weight" in texts and "text" in texts


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_views_of_the_same_bytes_again_and_again_are_refused(tmp_path, save):
    whole = torch.zeros(100_000)
    save(tmp_path / "few.bin", {str(i): whole[i:] for i in range(3)})
    assert len(back(tmp_path / "few.bin")) == 3
    save(tmp_path / "many.bin", {str(i): whole[i:] for i in range(800)})
    with pytest.raises(GligenError, match="many.bin is damaged"):
        contents_of(tmp_path / "many.bin")
    save(tmp_path / "wide.bin", {"0": whole[:1].expand(10_000_000)})
    with pytest.raises(GligenError, match="wide.bin is damaged"):
        contents_of(tmp_path / "wide.bin")
