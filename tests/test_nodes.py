"""The nodes' contract with workflows and users: ids, inputs, words, help pages, errors, imports."""

import ast
import asyncio
import json
import re
import subprocess
import sys
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "example_workflows" / "api" / "demo_text_boxes.json"
SCHEDULE = "tau FLOAT, decay FLOAT, strength FLOAT, negative_grounding COMBO"

# Saved workflows hang on these: ids, names, types and their order never change, only grow at the end.
# node: inputs, optional inputs, outputs
CONTRACT = {
    "GligenModelLoader": ("gligen_name COMBO", "", "GLIGEN"),
    "GligenTextBox": (
        "conditioning CONDITIONING, gligen GLIGEN, clip CLIP, text STRING, "
        "x FLOAT, y FLOAT, width FLOAT, height FLOAT",
        "strength FLOAT",
        "CONDITIONING",
    ),
    "GligenTextBoxes": (
        "conditioning CONDITIONING, gligen GLIGEN, clip CLIP, text STRING, width INT, height INT",
        "boxes BOUNDING_BOX|ARRAY, strength FLOAT",
        "CONDITIONING",
    ),
    "GligenImageBox": (
        "conditioning CONDITIONING, gligen GLIGEN, clip_vision_output CLIP_VISION_OUTPUT, clip CLIP, "
        "text STRING, x FLOAT, y FLOAT, width FLOAT, height FLOAT, use COMBO, projection COMBO",
        "strength FLOAT",
        "CONDITIONING",
    ),
    "GligenKeypoints": (
        "conditioning CONDITIONING, gligen GLIGEN, json STRING, confidence FLOAT",
        "pose_keypoint POSE_KEYPOINT, strength FLOAT",
        "CONDITIONING",
    ),
    "GligenSpatialMap": (
        "conditioning CONDITIONING, gligen GLIGEN, image IMAGE, classes COMBO",
        "strength FLOAT",
        "CONDITIONING",
    ),
    "GligenInpaint": (
        "conditioning CONDITIONING, gligen GLIGEN, vae VAE, image IMAGE",
        "mask MASK",
        "CONDITIONING, LATENT",
    ),
    "GligenFitToRegion": (
        "conditioning CONDITIONING, x FLOAT, y FLOAT, width FLOAT, height FLOAT",
        "mask MASK, segs SEGS, stitcher STITCHER, follow_detailer BOOLEAN",
        "CONDITIONING",
    ),
    "GligenMove": (
        "begin CONDITIONING, end CONDITIONING, frames INT",
        "curve CURVE",
        "CONDITIONING",
    ),
    "GligenModelSave": ("gligen GLIGEN, filename_prefix STRING", "", ""),
    "GligenAttention": ("model MODEL", "", "MODEL, GLIGEN_ATTENTION"),
    "GligenAttentionMaps": (
        "attention GLIGEN_ATTENTION, image IMAGE, layers COMBO, first_step INT, last_step INT",
        "",
        "IMAGE, IMAGE",
    ),
    "GligenBetaSchedule": (
        f"model MODEL, {SCHEDULE}",
        "curve CURVE, refresh_every INT, count COMBO",
        "MODEL",
    ),
    "GligenKSampler": (
        "model MODEL, seed INT, steps INT, cfg FLOAT, sampler_name COMBO, scheduler COMBO, "
        f"positive CONDITIONING, negative CONDITIONING, latent_image LATENT, denoise FLOAT, {SCHEDULE}",
        "refresh_every INT",
        "LATENT",
    ),
    "GligenPreview": ("conditioning CONDITIONING, width INT, height INT", "image IMAGE", "IMAGE"),
    "GligenDemoModel": ("", "kind COMBO", "MODEL, CLIP, VAE, GLIGEN, CLIP_VISION"),
    "GligenDemoPicture": ("things STRING, light COMBO", "", "IMAGE"),
}
NODES = list(CONTRACT)


@pytest.fixture(scope="module")
def classes(pack):
    extension = asyncio.run(pack.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="module")
def infos(classes):
    """What the host tells the browser about each node."""
    return {name: node.GET_NODE_INFO_V1() for name, node in classes.items()}


def inputs_of(info):
    """name: (type, options), the required ones first."""
    return {
        k: v for part in ("required", "optional") for k, v in info["input"].get(part, {}).items()
    }


def listed(inputs):
    return ", ".join(f"{name} {type_.replace(',', '|')}" for name, (type_, *_) in inputs.items())


def test_nodes_are_those_of_the_contract(classes):
    assert sorted(classes) == sorted(CONTRACT)


@pytest.mark.parametrize("name", NODES)
def test_inputs_and_outputs_are_those_of_the_contract(infos, name):
    info = infos[name]
    required, optional = (listed(info["input"].get(part, {})) for part in ("required", "optional"))
    assert (required, optional, ", ".join(info["output"])) == CONTRACT[name]


@pytest.mark.parametrize("name", NODES)
def test_everything_is_described(infos, name):
    info = infos[name]
    assert info["display_name"].startswith("GLIGEN ")
    assert re.match(r"(conditioning/gligen|model/|sampling)", info["category"])
    tooltips = {name: options.get("tooltip") for name, (_, options) in inputs_of(info).items()}
    tooltips |= {f"output {i}": tip for i, tip in enumerate(info["output_tooltips"])}
    for what, text in {"description": info["description"], **tooltips}.items():
        assert text and text.endswith("."), what


@pytest.mark.parametrize("name", NODES)
def test_help_page_names_the_inputs_and_outputs(infos, name):
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {infos[name]['display_name']}\n")
    assert sorted(first_column(page, "Inputs")) == sorted(inputs_of(infos[name]))
    assert first_column(page, "Outputs?") == infos[name]["output"]


def first_column(page, title):
    """The names in the first column of the table that follows a heading, if there is one."""
    table = re.search(rf"^## {title}\n\n\|.*\n\| -.*\n((?:\|.*\n)+)", page, re.M)
    rows = table[1].splitlines() if table else []
    return [name.strip() for row in rows for name in row.split("|")[1].split(",")]


def test_every_help_page_has_a_node():
    assert sorted(page.stem for page in (ROOT / "web" / "docs").glob("*.md")) == sorted(NODES)


def test_link_only_inputs_get_no_widget(infos):
    """A curve widget would override tau and decay in every workflow, though nobody touched it."""
    _, options = infos["GligenBetaSchedule"]["input"]["optional"]["curve"]
    assert options.get("forceInput") is True


def test_pack_is_entered_by_the_entry_point_alone(pack):
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")  # would hide comfy_entrypoint
    assert asyncio.iscoroutinefunction(pack.comfy_entrypoint)
    assert (ROOT / pack.WEB_DIRECTORY / "docs").is_dir()


def test_a_comfyui_that_is_too_old_is_told_in_one_sentence(pack, monkeypatch):
    import comfyui_version

    asyncio.run(pack.comfy_entrypoint())
    monkeypatch.setattr(comfyui_version, "__version__", "0.15.1")
    with pytest.raises(ValueError, match=r"needs ComfyUI 0\.16\.3 or newer, and this is 0\.15\.1"):
        asyncio.run(pack.comfy_entrypoint())


def test_the_oldest_host_is_the_same_everywhere():
    from gligen_pack.devtools.environment import HOSTS
    from gligen_pack.nodes import OLDEST_HOST

    oldest = ".".join(map(str, OLDEST_HOST))
    assert oldest == min(HOSTS, key=lambda version: [*map(int, version.split("."))])
    assert f'requires-comfyui = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()
    assert f"ComfyUI {oldest}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_loader_lists_files_and_needs_no_folder(classes, tmp_path, monkeypatch):
    import folder_paths

    folder = tmp_path / "gligen"
    suffixes = folder_paths.folder_names_and_paths["gligen"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "gligen", ([str(folder)], suffixes))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})

    def options():
        info = classes["GligenModelLoader"].GET_NODE_INFO_V1()
        return info["input"]["required"]["gligen_name"][1]["options"]

    assert options() == []
    folder.mkdir()
    (folder / "a.safetensors").touch()
    (folder / "notes.txt").touch()
    assert options() == ["a.safetensors"]


# ---------------------------------------------------------------- imports

HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server"}


def modules(folder):
    return {
        file.relative_to(folder).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for file in folder.rglob("*.py")
    }


def test_gligen_ops_works_without_the_host():
    code = f"""
import importlib, pkgutil, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HOST!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
sys.path.insert(0, {str(ROOT)!r})
import gligen_ops
for module in pkgutil.walk_packages(gligen_ops.__path__, "gligen_ops."):
    importlib.import_module(module.name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_gligen_ops_imports_nothing_of_the_host_or_the_nodes():
    for name, tree in modules(ROOT / "gligen_ops").items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= name.count("/") + 1, f"{name} imports from above its package"
                found = set() if node.level else {node.module.partition(".")[0]}
            else:
                continue
            assert not found & (HOST | {"demo", "devtools"}), name


def test_only_one_module_patches_the_host():
    keys = {
        "middle_patch", "middle_after_patch", "attn1_patch", "attn2_patch", "patches_replace",
        "patches", "wrappers", "transformer_options", "model_function_wrapper", "to_load_options",
    }  # fmt: skip
    calls = re.compile(r"set_model_.*|add_(wrapper|object_patch|patches|hook).*|set_injections")
    for name, tree in modules(ROOT / "nodes").items():
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        patching = (strings & keys) | set(filter(calls.fullmatch, attributes))
        assert bool(patching) == (name == "seam/patch.py"), (name, patching)


# ---------------------------------------------------------------- bad input, as a user meets it


@pytest.fixture(scope="module")
def demo():
    """The demo workflow, short."""
    workflow = json.loads(DEMO.read_text(encoding="utf-8"))
    only(workflow, "GligenKSampler")["inputs"]["steps"] = 2
    return workflow


def only(workflow, class_type):
    (node,) = (node for node in workflow.values() if node["class_type"] == class_type)
    return node


def failure(server, workflow):
    """Id and type of the node that failed, and what the user reads."""
    status = server.wait(server.queue(workflow))["status"]
    assert status["status_str"] == "error"
    (data,) = (data for kind, data in status["messages"] if kind == "execution_error")
    assert data["exception_type"].endswith("GligenError")
    return data["node_id"], data["node_type"], data["exception_message"]


def test_a_bad_box_is_told(server, demo):
    workflow = deepcopy(demo)
    bad = next(n for n, node in workflow.items() if node["inputs"].get("text") == "a red circle"
               and node["class_type"] == "GligenTextBox")  # fmt: skip
    workflow[bad]["inputs"] |= {"x": 0.9, "width": 0.5}
    node, type_, message = failure(server, workflow)
    assert (node, type_) == (bad, "GligenTextBox")
    for word in ("a red circle", "x", "width", "0.9", "1.4"):
        assert re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", message), message


def with_text_boxes(demo, text):
    """The demo with its box nodes replaced by one GligenTextBoxes."""
    workflow = deepcopy(demo)
    boxes = [name for name, node in workflow.items() if node["class_type"] == "GligenTextBox"]
    first, last = boxes[0], boxes[-1]
    links = {k: workflow[first]["inputs"][k] for k in ("conditioning", "gligen", "clip")}
    for name in boxes:
        del workflow[name]
    workflow[last] = {
        "class_type": "GligenTextBoxes",
        "inputs": {**links, "text": text, "width": 128, "height": 128},
    }
    return workflow


def test_a_bad_text_is_told(server, demo):
    text = "a red circle: 0.1, 0.1, 0.5, 0.5\na star: 0.2, 0.3, 0.4"
    _, type_, message = failure(server, with_text_boxes(demo, text))
    assert type_ == "GligenTextBoxes"
    assert all(word in message for word in ("text", "Line 2", "a star", "3")), message


def test_good_workflow_runs_as_before_after_a_bad_one(server, demo):
    (before,) = server.run(demo)
    failure(server, with_text_boxes(demo, "a star: 1, 2, 3"))
    again = deepcopy(demo)
    sampler = only(again, "GligenKSampler")["inputs"]
    again[sampler["negative"][0]]["inputs"]["text"] = " "  # as good as none, and not in the cache
    entry = server.wait(server.queue(again))
    cached = [
        again[name]["class_type"]
        for name in dict(entry["status"]["messages"])["execution_cached"]["nodes"]
    ]
    assert "GligenDemoModel" in cached and "GligenKSampler" not in cached
    (after,) = server.pictures(entry)
    before, after = (Image.open(BytesIO(picture)) for picture in (before, after))
    assert before.size == (512, 512)
    assert ImageChops.difference(before, after).getbbox() is None
