"""Every kind of GLIGEN that the authors published: found out, built, loaded, saved."""

import json

import pytest
import torch
from files import (
    PARTS,
    SD15_WIDTHS,
    SDXL_WIDTHS,
    fake_omegaconf,
    load_gligen,
    random_tensors,
    save_authors,
    save_diffusers,
    save_pruned,
    scaled,
)
from gligen_pack.gligen_ops.errors import GligenError
from gligen_pack.gligen_ops.files.checkpoint import (
    Checkpoint,
    build_gligen,
    checkpoint_of,
    read_gligen,
    save_gligen,
    tensors_of,
)
from gligen_pack.gligen_ops.files.tensor_files import contents_of
from gligen_pack.gligen_ops.kinds import KINDS, kind_of
from gligen_pack.gligen_ops.layers.first_conv import FirstConv
from gligen_pack.gligen_ops.layers.gated_cross import GatedCrossAttention
from gligen_pack.gligen_ops.layers.gated_grid import GatedGridAttention
from gligen_pack.gligen_ops.layers.gated_self_attention import GatedSelfAttention
from gligen_pack.gligen_ops.model import Block, Gligen

WIDTHS = scaled(SD15_WIDTHS, 40)
KIND = {kind.name: kind for kind in KINDS}
CONFIGURED = {
    "text box": "text",
    "text and image box": "text_image",
    "keypoints": "keypoint",
    "semantic map": "sem",
    "text box inpainting": "text",
    "text and image box inpainting": "text_image",
}


def make(name, fuser="gatedSA", widths=WIDTHS, dtype=torch.float32):
    width = 64 if "map" in name else 20
    return random_tensors(name, widths, 24, width, dtype=dtype, fuser=fuser)


@pytest.fixture(scope="module")
def all_tensors():
    return {name: make(name) for name in PARTS}


def same(some, others):
    return some.keys() == others.keys() and all(
        torch.equal(some[name], others[name]) and some[name].dtype == others[name].dtype
        for name in some
    )


def test_the_table_is_the_authors():
    """The ten checkpoints in their README."""
    generation = "text-box text-image-box keypoint hed canny depth normal sem".split()
    inpainting = "text-box text-image-box".split()
    names = [f"generation-{n}" for n in generation] + [f"inpainting-{n}" for n in inpainting]
    assert {kind.official for kind in KINDS} == {f"gligen/gligen-{name}" for name in names}
    assert sorted(PARTS) == sorted(kind.name for kind in KINDS) and len(KINDS) == len(names)


@pytest.mark.parametrize("name", PARTS)
def test_every_kind_is_found_out_built_loaded_saved_and_loaded_back(tmp_path, all_tensors, name):
    tensors = all_tensors[name]
    net = CONFIGURED.get(name, name.removesuffix(" map"))
    save_authors(tmp_path / "official.bin", tensors, net=net)
    checkpoint = read_gligen(tmp_path / "official.bin")
    assert checkpoint._replace(tensors=None) == Checkpoint(
        None, KIND[name], "gatedSA", "official.bin", "official.bin"
    )
    assert same(checkpoint.tensors, tensors)

    gligen = load_gligen(tmp_path / "official.bin")
    assert gligen.kind is KIND[name]
    assert same(tensors_of(gligen), tensors)
    assert (gligen.first_conv is None) == ("input_blocks.0.0.weight" not in tensors)

    save_gligen(checkpoint, tmp_path / "own.safetensors")
    again = read_gligen(tmp_path / "own.safetensors")
    assert again._replace(tensors=None, name="") == checkpoint._replace(tensors=None, name="")
    assert same(again.tensors, tensors)


@pytest.mark.parametrize("name", PARTS)
def test_a_loaded_model_makes_tokens_and_grounds(tmp_path, all_tensors, name):
    save_pruned(tmp_path / "model.safetensors", all_tensors[name])
    gligen = load_gligen(tmp_path / "model.safetensors")
    with torch.no_grad():
        tokens = gligen.position_net(*gligen.position_net.inputs([]))
        assert tokens.shape == (1, len(gligen.position_net.slot_of_token), gligen.token_width)
        layer = gligen.layer(Block("input", 1, 0))
        v = torch.randn(1, 16, 8)
        assert not torch.equal(layer(v, layer.keys(tokens), 2, layer.gates()), v)


@pytest.mark.parametrize("name", PARTS)
def test_what_is_wrong_with_a_file_of_any_kind_is_told(all_tensors, name):
    tensors = all_tensors[name]
    own = [key for key in tensors if ".fuser." not in key]
    hints = [name]
    for key in own[:: max(1, len(own) // 3)] + own[-2:]:
        rest = {n: tensor for n, tensor in tensors.items() if n != key}
        with pytest.raises(GligenError, match=rf"a complete {name} GLIGEN.*: 1 missing \({key}\)"):
            build_gligen(checkpoint_of(rest, hints=hints))
        odd = rest | {key: torch.zeros(3, 5, 7)}
        with pytest.raises(GligenError, match=rf": 1 of the wrong shape \({key} is \[3, 5, 7\]"):
            build_gligen(checkpoint_of(odd, hints=hints))
        with pytest.raises(GligenError, match=rf": 1 unexpected \({key}.too\)"):
            build_gligen(checkpoint_of(tensors | {f"{key}.too": torch.zeros(3)}, hints=hints))


@pytest.mark.parametrize("name", ["text box", "text and image box", "keypoints", "hed map"])
def test_a_tensor_that_decides_a_size_is_told_alone_where_it_is_missing_or_of_other_axes(
    all_tensors, name
):
    tensors = all_tensors[name]
    for key, axes in KIND[name].tokenizer.sizes.items():
        key = f"position_net.{key}"
        rest = {n: tensor for n, tensor in tensors.items() if n != key}
        with pytest.raises(GligenError, match=rf"tensors: 1 missing \({key}\)\. Download"):
            build_gligen(checkpoint_of(rest, hints=[name]))
        wanted = ", ".join(map(str, axes))
        told = rf"tensors: 1 of the wrong shape \({key} is \[0\] and not \[{wanted}\]\)\. Download"
        with pytest.raises(GligenError, match=told):
            build_gligen(checkpoint_of(rest | {key: torch.zeros(0)}, hints=[name]))


def test_a_file_with_the_signature_of_no_kind_is_told_what_it_lacks(all_tensors):
    tensors = dict(all_tensors["text box"])
    del tensors["position_net.null_positive_feature"]
    with pytest.raises(GligenError, match="mine.bin .* of no kind of GLIGEN") as error:
        checkpoint_of(tensors, "mine.bin", ["", "text.bin"])
    assert "position_net.null_positive_feature (text box);" in str(error.value)
    assert "position_net.person_embeddings (keypoints);" in str(error.value)
    assert checkpoint_of(tensors, hints=["text box"]).kind is KIND["text box"]


def test_tokens_of_a_map_that_are_no_square_are_told(all_tensors):
    tensors = all_tensors["hed map"] | {"position_net.pos_embedding": torch.zeros(1, 60, 64)}
    with pytest.raises(GligenError, match=r"is \[1, 60, 64\] and not \[1, 49, 64\]"):
        build_gligen(checkpoint_of(tensors))


class LazyLinear(torch.nn.Linear):
    """As the host's, which has no weights until they are loaded."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weight = self.bias = None

    def _load_from_state_dict(self, state, prefix, *_):
        for name in {"weight", "bias"}:
            if f"{prefix}{name}" in state:
                setattr(self, name, torch.nn.Parameter(state[f"{prefix}{name}"]))


class Operations:
    Linear = LazyLinear
    LayerNorm = type("LayerNorm", (torch.nn.LayerNorm,), {})
    Conv2d = type("Conv2d", (torch.nn.Conv2d,), {})


@pytest.mark.parametrize("name", PARTS)
def test_all_layers_but_the_backbones_are_of_the_hosts_operations(tmp_path, all_tensors, name):
    save_pruned(tmp_path / "model.safetensors", all_tensors[name])
    gligen = load_gligen(tmp_path / "model.safetensors", Operations)
    assert same(tensors_of(gligen), all_tensors[name])
    for path, module in gligen.named_modules():
        for kind in (torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Conv2d):
            if isinstance(module, kind) and "convnext" not in path:
                assert isinstance(module, getattr(Operations, kind.__name__)), path


def test_canny_and_depth_are_told_apart_by_what_the_file_says(tmp_path, all_tensors):
    tensors = all_tensors["depth map"]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert kind_of(shapes) is kind_of(shapes, ["a model", "of ours"]) is KIND["canny map"]
    assert kind_of(shapes, ["", "Depth.safetensors", "canny"]) is KIND["depth map"]

    for net in ("canny", "depth"):
        # The configuration is believed before the file's name.
        save_authors(tmp_path / "depth_or_canny.bin", tensors, net=net)
        assert read_gligen(tmp_path / "depth_or_canny.bin").kind is KIND[f"{net} map"]
        legacy = tmp_path / "depth_or_canny.pth"
        save_authors(legacy, tensors, net=net, _use_new_zipfile_serialization=False)
        assert read_gligen(legacy).kind is KIND[f"{net} map"]
        # Where it says nothing, the name does, and then the folder's.
        save_pruned(tmp_path / f"gligen-{net}.safetensors", tensors)
        assert read_gligen(tmp_path / f"gligen-{net}.safetensors").kind is KIND[f"{net} map"]
        folder = tmp_path / f"gligen-generation-{net}"
        folder.mkdir()
        save_pruned(folder / "model.safetensors", tensors)
        assert read_gligen(folder / "model.safetensors").kind is KIND[f"{net} map"]


def test_a_configuration_with_a_transformer_depth_is_no_depth_map(tmp_path, all_tensors):
    save_authors(tmp_path / "model.bin", all_tensors["canny map"], net="canny")
    assert "transformer_depth" in contents_of(tmp_path / "model.bin").strings
    assert read_gligen(tmp_path / "model.bin").kind is KIND["canny map"]


FUSERS = {
    "gatedSA": GatedSelfAttention,
    "gatedSA2": GatedGridAttention,
    "gatedCA": GatedCrossAttention,
}


@pytest.mark.parametrize("fuser", FUSERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_fuser_is_found_out_and_kept(tmp_path, fuser, zipped):
    tensors = make("hed map", fuser)
    save_authors(
        tmp_path / "model.bin", tensors, fuser=fuser, _use_new_zipfile_serialization=zipped
    )
    checkpoint = read_gligen(tmp_path / "model.bin")
    assert checkpoint.fuser == fuser
    save_gligen(checkpoint, tmp_path / "own.safetensors")
    gligen = load_gligen(tmp_path / "own.safetensors")
    assert gligen.fuser == fuser
    assert {type(gligen.layer(block)) for block in gligen.widths} == {FUSERS[fuser]}
    assert same(tensors_of(gligen), tensors)


def test_gated_ca_is_known_by_its_tensors_whatever_a_file_says():
    tensors = make("text box", "gatedCA")
    gligen = build_gligen(checkpoint_of(tensors, hints=["gatedSA2"]))
    assert gligen.fuser == "gatedCA"
    assert gligen.token_width == 24


def test_a_gated_ca_layer_with_something_missing_is_told():
    tensors = make("text box", "gatedCA")
    key = "middle_block.1.transformer_blocks.0.fuser.attn.to_k.weight"
    with pytest.raises(GligenError, match=f": 1 missing .{key}"):
        build_gligen(checkpoint_of({n: t for n, t in tensors.items() if n != key}))


def test_what_a_saved_file_says_of_its_layers_is_believed_before_its_folder(tmp_path):
    folder = tmp_path / "gatedSA2"
    folder.mkdir()
    save_gligen(checkpoint_of(make("hed map")), folder / "model.safetensors")
    assert read_gligen(folder / "model.safetensors").fuser == "gatedSA"


def test_gated_sa2_of_tokens_that_are_no_square_is_refused():
    with pytest.raises(GligenError, match="square grid, and its text box tokenizer makes 30"):
        build_gligen(checkpoint_of(make("text box"), hints=["gatedSA2"]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_saved_model_keeps_its_dtype(tmp_path, dtype):
    tensors = make("canny map", dtype=dtype)
    save_gligen(checkpoint_of(tensors), tmp_path / "own.safetensors")
    assert same(read_gligen(tmp_path / "own.safetensors").tensors, tensors)
    assert {p.dtype for p in load_gligen(tmp_path / "own.safetensors").parameters()} == {dtype}


def test_a_saved_file_holds_gligen_alone_and_says_what_it_is(tmp_path, all_tensors):
    tensors = all_tensors["canny map"]
    path = tmp_path / "canny.safetensors"
    hints = ["depth map", "gatedSA2"]
    save_gligen(checkpoint_of(tensors, hints=hints, source="a training"), path)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.pop("__metadata__") == {
        "gligen_kind": "depth map",
        "gligen_fuser": "gatedSA2",
        "gligen_source": "a training",
    }
    assert header.keys() == tensors.keys()
    read = read_gligen(path)
    assert (read.kind, read.fuser, read.source) == (KIND["depth map"], "gatedSA2", "a training")


def test_a_model_under_training_is_saved_and_loaded_back(tmp_path):
    gligen = Gligen(KIND["keypoints"].tokenizer(16), 16, {Block("middle", 0, 0): 32})
    save_gligen(checkpoint_of(tensors_of(gligen)), tmp_path / "mine.safetensors")
    again = load_gligen(tmp_path / "mine.safetensors")
    assert again.kind is KIND["keypoints"]
    assert same(again.state_dict(), gligen.state_dict())


@pytest.mark.parametrize("name", ["text and image box", "text and image box inpainting"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_text_and_image_boxes_in_the_layout_of_diffusers(tmp_path, all_tensors, name, suffix):
    path = tmp_path / f"diffusion_pytorch_model.{suffix}"
    save_diffusers(path, all_tensors[name])
    checkpoint = read_gligen(path)
    assert checkpoint.kind is KIND[name]
    assert same(checkpoint.tensors, all_tensors[name])
    build_gligen(checkpoint)


def test_maps_ground_unets_of_several_blocks_a_transformer():
    widths = scaled(SDXL_WIDTHS, 80)
    gligen = build_gligen(checkpoint_of(make("normal map", widths=widths)))
    assert list(gligen.widths.items()) == list(widths.items())


def test_maps_of_fewer_tokens_are_read_at_that_size(all_tensors):
    tensors = dict(all_tensors["hed map"])
    tensors["position_net.pos_embedding"] = torch.zeros(1, 64, 64)
    assert build_gligen(checkpoint_of(tensors)).position_net.resolution == 256


def test_a_file_is_read_for_its_strings_without_running_it(tmp_path):
    with fake_omegaconf() as omegaconf:
        torch.save({"config_dict": omegaconf(a="one", b={"c": "two"}).__dict__}, tmp_path / "a.bin")
    assert {"one", "two", "omegaconf.nodes AnyNode"} <= {*contents_of(tmp_path / "a.bin").strings}
    save_pruned(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    assert not contents_of(tmp_path / "a.safetensors").strings


def test_a_text_box_gligen_of_sd_1_has_209_million_weights():
    with torch.device("meta"):
        tokenizer = KIND["text box"].tokenizer(768, 768)
        gligen = Gligen(tokenizer, 768, SD15_WIDTHS)
    assert round(sum(p.numel() for p in gligen.parameters()) / 1e6, 1) == 209.1


@pytest.mark.parametrize("name", KIND)
def test_the_width_of_the_mlp_is_read_from_the_file(tmp_path, name):
    kind = KIND[name]
    widths = (64, 16) if "map" in name else (16,) if name == "keypoints" else (24, 16)
    first_conv = None if kind.extra is None else FirstConv(32, kind.extra(operations=torch.nn))
    gligen = Gligen(
        kind.tokenizer(*widths, hidden=40), 16, {Block("middle", 0, 0): 32},
        first_conv=first_conv, kind=kind,
    )  # fmt: skip
    save_gligen(checkpoint_of(tensors_of(gligen), hints=[name]), tmp_path / "narrow.safetensors")
    again = load_gligen(tmp_path / "narrow.safetensors")
    assert again.kind is kind
    assert same(again.state_dict(), gligen.state_dict())


@pytest.mark.parametrize("kind", ["text box inpainting", "depth map"])
def test_a_file_without_the_weight_of_its_first_convolution_is_told_so(all_tensors, kind):
    tensors = dict(all_tensors[kind])
    del tensors["input_blocks.0.0.weight"]
    with pytest.raises(GligenError, match=r"a\.pt .*input_blocks\.0\.0\.weight is missing"):
        checkpoint_of(tensors, "a.pt")
