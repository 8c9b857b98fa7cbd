import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from files import (
    SD15_WIDTHS,
    SD21_WIDTHS,
    SDXL_WIDTHS,
    load_gligen,
    random_text_box_tensors,
    save_authors,
    save_diffusers,
    save_full,
    save_pruned,
    save_shards,
    scaled,
)
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.files.checkpoint import (
    build_gligen,
    checkpoint_of,
    read_gligen,
    state_dict_of,
)
from gligen_pack.gligen_ops.model import Block
from safetensors.torch import save_file

WIDTHS = scaled(SD15_WIDTHS, 40)
FUSER = "input_blocks.1.1.transformer_blocks.0.fuser"


@pytest.fixture(scope="module")
def tensors():
    return random_text_box_tensors(WIDTHS, token_width=24, text_width=20)


def same(some, others):
    return some.keys() == others.keys() and all(
        torch.equal(some[name], others[name]) and some[name].dtype == others[name].dtype
        for name in some
    )


LAYOUTS = {
    "pruned.safetensors": save_pruned,
    "full.safetensors": save_full,
    "model.safetensors": lambda path, tensors: save_full(path, tensors, "model."),
    "authors.bin": save_authors,
    "authors.pth": lambda path, tensors: save_authors(path, tensors, config=False),
    "legacy.pth": lambda path, tensors: save_authors(
        path, tensors, _use_new_zipfile_serialization=False
    ),
    "protocol4.pth": lambda path, tensors: save_authors(path, tensors, pickle_protocol=4),
    "diffusers.safetensors": save_diffusers,
    "diffusers.bin": save_diffusers,
    "parameters.bin": lambda path, tensors: torch.save(
        {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}, path
    ),
    "wrong_suffix.bin": save_pruned,
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_layout_gives_the_same_tensors(tmp_path, tensors, name, dtype):
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    LAYOUTS[name](tmp_path / name, tensors)
    assert same(read_gligen(tmp_path / name).tensors, tensors)


@pytest.mark.parametrize("widths", [SD21_WIDTHS, SDXL_WIDTHS], ids=["sd21", "sdxl"])
def test_other_unets_in_the_layout_of_diffusers(tmp_path, widths):
    widths = scaled(widths, 80)
    tensors = random_text_box_tensors(widths, token_width=32, text_width=28)
    save_diffusers(tmp_path / "model.safetensors", tensors)
    assert same(read_gligen(tmp_path / "model.safetensors").tensors, tensors)
    gligen = load_gligen(str(tmp_path / "model.safetensors"))
    assert list(gligen.widths.items()) == list(widths.items())


def test_a_part_stands_for_all_of_them(tmp_path, tensors):
    first = save_shards(tmp_path / "diffusion_pytorch_model.safetensors", tensors)
    assert same(read_gligen(first).tensors, tensors)
    second = first.with_name(first.name.replace("00001-", "00002-"))
    second.unlink()
    with pytest.raises(
        GligenError, match="beside it .*model-00002-of-00003.safetensors is missing"
    ):
        read_gligen(first)


@pytest.mark.parametrize(
    "types, depth, widths",
    [
        (("CrossAttn",) * 3 + ("",), 1, scaled(SD15_WIDTHS, 20)),
        (("", "CrossAttn", "CrossAttn"), (1, 2, 10), scaled(SDXL_WIDTHS, 20)),
    ],
    ids=["sd15", "sdxl"],
)
def test_the_unet_of_diffusers_itself(tmp_path, types, depth, widths):
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        down_block_types=[f"{t}DownBlock2D" for t in types],
        up_block_types=[f"{t}UpBlock2D" for t in reversed(types)],
        block_out_channels=(16, 32, 64, 64)[: len(types)],
        transformer_layers_per_block=depth,
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
        attention_type="gated",
    )
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    gligen = load_gligen(tmp_path / "unet.safetensors")
    assert list(gligen.widths.items()) == list(widths.items())
    fuser = unet.up_blocks[1].attentions[2].transformer_blocks[0].fuser
    assert torch.equal(gligen.layer(Block("output", 5, 0)).linear.weight, fuser.linear.weight)


def test_loaded_weights(tmp_path, tensors):
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_pruned(tmp_path / "model.safetensors", half)
    gligen = load_gligen(tmp_path / "model.safetensors")
    assert list(gligen.widths.items()) == list(WIDTHS.items())
    assert gligen.token_width == 24 and gligen.position_net.text_width == 20
    layer = gligen.layer(Block("input", 1, 0))
    assert torch.equal(layer.ff.net[2].weight, half[f"{FUSER}.ff.net.2.weight"])
    assert same(gligen.state_dict(), state_dict_of(gligen, half))
    assert all(p.dtype == torch.float16 for p in gligen.parameters())


def test_blocks_are_in_the_order_of_the_unet(tensors):
    gligen = build_gligen(checkpoint_of(dict(sorted(tensors.items(), reverse=True))))
    assert list(gligen.widths) == list(WIDTHS)


def test_tensors_outlive_the_file(tmp_path, tensors):
    path = tmp_path / "model.bin"
    save_authors(path, tensors)
    read = read_gligen(path).tensors
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert same(read, tensors)


MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest
from files import load_gligen
from gligen_pack.gligen_ops.files.checkpoint import read_gligen

def status(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024

load_gligen(sys.argv[2])  # for the modules that this imports
held = []
for path in sys.argv[2:]:
    for read in (lambda path: read_gligen(path).tensors, lambda path: load_gligen(path).state_dict()):
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        held.append(read(path))
        print(status("VmHWM") - before, sum(t.nbytes for t in held[-1].values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_what_is_kept(tmp_path):
    tensors = random_text_box_tensors(scaled(SD15_WIDTHS, 3), dtype=torch.float16)
    tensors["time_embed.0.weight"] = torch.zeros(2**25)  # 128 MiB
    paths = [tmp_path / name for name in ("a.safetensors", "b.bin", "c.pth")]
    save_full(paths[0], tensors)
    save_authors(paths[1], tensors)
    save_authors(paths[2], tensors, _use_new_zipfile_serialization=False)
    tests = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", MEASURE, tests, *map(str, paths)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in run.stdout.splitlines():
        peak, kept = map(int, line.split())
        assert kept > 2**25
        assert peak < 1.2 * kept + 2**24, run.stdout


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("format", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("function", [os.mkdir, eval, exec])
def test_nothing_in_a_pickle_runs(tmp_path, tensors, function, format, protocol):
    marker = tmp_path / "ran"
    argument = str(marker)
    if function is not os.mkdir:
        argument = f"__import__('os').mkdir({argument!r})"
    hostile = {"model": tensors, "config_dict": {"a": [Calls(function, argument)]}}
    path = tmp_path / "hostile.bin"
    if format == "pickle":
        path.write_bytes(pickle.dumps(hostile, protocol=protocol))
    else:
        zipped = format == "zip"
        torch.save(hostile, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    named = rf"hostile.bin was not loaded, as it tries to run code \(\w+\.{function.__name__}\)"
    with pytest.raises(GligenError, match=named if format != "pickle" else "was not loaded"):
        read_gligen(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(hostile["config_dict"], protocol=protocol))
    assert marker.exists()


def refusal(path):
    with pytest.raises(GligenError) as error:
        build_gligen(read_gligen(path))
    message = str(error.value)
    assert message.startswith(path.name) and message.endswith(".") and "\n" not in message
    return message


CONTENTS = {
    b"": "is empty",
    b"Once upon a time there was a model, and it was not in this file.": "neither a safetensors",
    b"<!DOCTYPE html><html><body>Sign in to download</body></html>": "a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 836\n": "Git LFS pointer",
    b"\x80\x02K\x01.": "not one of PyTorch",
    b"\x80\x02}q": "damaged or incomplete",
    b"PK\x03\x04 and no more": "damaged or incomplete",
    b"\x00\x00\x01\x00\x00\x00\x00\x00{" + b" " * 60: "damaged or incomplete",
}


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_model(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert CONTENTS[content] in refusal(path)


def test_what_cannot_be_opened(tmp_path):
    assert "cannot be opened" in refusal(tmp_path / "missing.safetensors")
    assert "cannot be opened" in refusal(tmp_path)


def test_zip_archives(tmp_path, tensors):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("pictures/1.png", "png")
    assert "zip archive without a model" in refusal(tmp_path / "pictures.zip")
    with zipfile.ZipFile(tmp_path / "packed.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
    assert "compressed" in refusal(tmp_path / "packed.bin")


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    "name", ["pruned.safetensors", "authors.bin", "legacy.pth", "diffusers.bin"]
)
def test_incomplete_files(tmp_path, tensors, name, kept):
    path = tmp_path / name
    LAYOUTS[name](path, tensors)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "damaged or incomplete" in refusal(path)


@pytest.mark.parametrize("views", [[], [(-1, (2,), (1,))], [(0, (5,), (1,))], [("0", (), ())]])
def test_tensors_reach_no_further_than_their_storage(tmp_path, views):
    class Odd:
        def __init__(self, view):
            self.view = view

        def __reduce__(self):
            storage = torch.arange(4.0)._typed_storage()
            return torch._utils._rebuild_tensor_v2, (storage, *self.view, False, {})

    path = tmp_path / "odd.bin"
    torch.save({f"position_net.{i}": Odd(view) for i, view in enumerate(views)}, path)
    assert ("damaged" if views else "no gated layers") in refusal(path)


def test_views_of_one_storage(tmp_path, tensors):
    name = f"{FUSER}.attn.to_q.weight"
    views = tensors | {name: torch.stack([tensors[name], tensors[name].T])[1].T}
    torch.save(views, tmp_path / "views.bin")
    assert same(read_gligen(tmp_path / "views.bin").tensors, tensors)


def test_an_ordinary_stable_diffusion(tmp_path):
    save_full(tmp_path / "sd15.safetensors", {})
    assert "contains no gated layers (fuser)" in refusal(tmp_path / "sd15.safetensors")
    torch.save([1, 2], tmp_path / "list.bin")
    assert "contains no gated layers (fuser)" in refusal(tmp_path / "list.bin")


def test_all_that_is_wrong_with_the_tensors_is_told_at_once(tmp_path, tensors):
    wrong = dict(tensors)
    del wrong[f"{FUSER}.norm1.weight"], wrong["position_net.null_position_feature"]
    wrong[f"{FUSER}.linear.weight"] = torch.zeros(8, 23)
    wrong["position_net.linears.2.bias"] = torch.zeros(3)
    wrong["position_net.extra"] = torch.zeros(3)
    wrong |= {f"middle_block.1.transformer_blocks.0.fuser.x{i}": torch.zeros(1) for i in range(99)}
    save_pruned(tmp_path / "model.safetensors", wrong)
    message = refusal(tmp_path / "model.safetensors")
    assert "2 missing (" in message
    assert f"{FUSER}.norm1.weight" in message and "position_net.null_position_feature" in message
    assert "100 unexpected (" in message and ", …)" in message
    assert f"{FUSER}.linear.weight is [8, 23] and not [8, 24]" in message
    assert "position_net.linears.2.bias is [3] and not [512]" in message
    assert len(message) < 3000


@pytest.mark.parametrize("part", ["linear.weight", "attn.to_out.0.bias", "alpha_dense"])
def test_one_tensor_wrong(tensors, part):
    name = f"{FUSER}.{part}"
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    with pytest.raises(GligenError, match=f"1 missing .{name}"):
        build_gligen(checkpoint_of(rest))
    with pytest.raises(GligenError, match=f"1 of the wrong shape .{name} is"):
        build_gligen(checkpoint_of(rest | {name: torch.zeros(3, 5, 7)}))
    with pytest.raises(GligenError, match=f"1 unexpected .{name}.too"):
        build_gligen(checkpoint_of(tensors | {f"{name}.too": torch.zeros(3)}))


def test_tensors_at_odd_places(tensors):
    odd = "input_blocks.1.0.transformer_blocks.0.fuser.linear.weight"
    with pytest.raises(GligenError, match=f"1 unexpected .{odd}"):
        build_gligen(checkpoint_of(tensors | {odd: torch.zeros(8, 24)}))


def test_gated_layers_without_tokenizer(tmp_path, tensors):
    fusers = {name: t for name, t in tensors.items() if "fuser" in name}
    save_pruned(tmp_path / "fusers.safetensors", fusers)
    assert "not the tokenizer of the grounding (position_net)" in refusal(
        tmp_path / "fusers.safetensors"
    )


def test_a_tensor_twice(tmp_path, tensors):
    twice = {f"model.{name}": tensor.clone() for name, tensor in tensors.items()}
    save_pruned(tmp_path / "twice.safetensors", twice | tensors)
    assert "twice" in refusal(tmp_path / "twice.safetensors")


def test_quantized_to_integers(tmp_path, tensors):
    quantized = {name: tensor.to(torch.int8) for name, tensor in tensors.items()}
    for name in ("int8.safetensors", "int8.bin"):
        save_diffusers(tmp_path / name, quantized)
        assert "quantized" in refusal(tmp_path / name)


def refused(path, told):
    with pytest.raises(GligenError, match=told) as error:
        load_gligen(path)
    assert len(str(error.value)) < 2500


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2])
def test_weights_that_are_no_numbers_are_told(tmp_path, tensors, value, dtype):
    bad = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    bad[f"{FUSER}.linear.weight"] = torch.full_like(
        bad[f"{FUSER}.linear.weight"].float(), value
    ).to(dtype)
    save_pruned(tmp_path / "bad.safetensors", bad)
    refused(
        tmp_path / "bad.safetensors",
        "bad.safetensors holds values that are no numbers .*fuser.linear",
    )


def test_numbers_and_names_of_any_length_are_told_shortly(tmp_path, tensors):
    far = FUSER.replace("1.1", "9" * 5000 + ".1", 1)
    save_file({**tensors, f"{far}.linear.weight": torch.zeros(2)}, tmp_path / "far.safetensors")
    refused(tmp_path / "far.safetensors", "1 unexpected")
    save_file(
        {**tensors, f"{FUSER}.{'x' * 1_000_000}": torch.zeros(2)}, tmp_path / "long.safetensors"
    )
    refused(tmp_path / "long.safetensors", "1 unexpected .*…")


def test_widths_of_empty_tensors_are_told(tmp_path, tensors):
    empty = {**tensors, f"{FUSER}.norm2.weight": torch.zeros(10**12, 0)}
    save_file(empty, tmp_path / "empty.safetensors")
    refused(tmp_path / "empty.safetensors", "of the wrong shape")


def test_a_part_that_is_missing_is_told_with_what_to_do(tmp_path, tensors):
    save_shards(tmp_path / "model.safetensors", tensors)
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    second.unlink()
    refused(
        first,
        f"is one of 3 parts, and beside it {second.name} is missing: put all parts into the same",
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "a folder or a device")
    refused(tmp_path, "a folder or a device")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text on this system")
def test_a_file_whose_name_is_no_text_is_told(tmp_path, tensors):
    save_pruned(tmp_path / "good.safetensors", tensors)
    name = os.fsencode(tmp_path) + b"/bad\xff.safetensors"
    os.rename(tmp_path / "good.safetensors", name)
    refused(os.fsdecode(name), "has a name that is no text: rename it")
