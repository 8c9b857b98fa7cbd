"""The shipped workflows: in the browser, against the nodes, and run to their end by a real server.

What needs real models runs on stand-ins of the real files' names, formats and shapes.
"""

import io
import json
import math
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import files
import pytest
import small
import torch
from gligen_pack.devtools.environment import HOST_VERSION
from gligen_pack.devtools.server import Server
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "example_workflows"
SHIPPED = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
NOTES = ("MarkdownNote", "Note")
TITLE = 30  # height of a node's title, above its pos
GENERATED = {"control_after_generate", "upload"}  # what the browser adds to a seed, a picture

each_workflow = pytest.mark.parametrize("name", SHIPPED)


def ui_form(name):
    return json.loads(SHIPPED[name].read_text(encoding="utf-8"))


def api_form(name):
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- stand-ins for real models


@pytest.fixture(scope="session")
def models(host, server):
    """The files that the workflows ask for, in the server's folders while tests run."""
    for name, make in MODELS.items():
        file = server.base / "models" / name
        file.parent.mkdir(exist_ok=True)
        make(file, host)
    pictures = [server.base / "input" / name for name in ("example.png", CLASSES)]
    shutil.copy(host / "input" / "example.png", pictures[0])
    Image.effect_noise((64, 64), 30).point(lambda v: v % 151).save(pictures[1])
    yield
    for file in (*(server.base / "models" / name for name in MODELS), *pictures):
        file.unlink()


def gligen(kind, save=files.save_authors, **kwargs):
    def make(file, host):
        tensors = files.random_tensors(kind, files.SD15_WIDTHS, dtype=torch.float16)
        save(file, tensors, **kwargs)

    return make


def sparse(shapes):
    return lambda file, host: write_checkpoint(file, shapes(host))


def write_checkpoint(path, shapes):
    """Tensors in fp16, of each only a start of small random numbers. The rest, nearly all of 2 GB, is
    zeros that are not written: most disks do not store them."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = torch.randn(1 << 15, generator=torch.Generator().manual_seed(0)) * 0.05
    start = values.half().numpy().tobytes()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        body = file.tell()
        file.truncate(body + offset)
        for entry in header.values():
            first, end = entry["data_offsets"]
            file.seek(body + first)
            file.write(start[: end - first])


def sd15_shapes(host):
    """Names and shapes of the tensors of Stable Diffusion 1.5, from the host's own classes."""
    import comfy.clip_model
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    ops = comfy.ops.disable_weight_init
    unet = small.SD15 | {"model_channels": 320, "num_heads": 8}
    text = json.loads((host / "comfy" / "sd1_clip_config.json").read_text())
    vae = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": UNetModel(**unet, operations=ops),
            "cond_stage_model.transformer.": comfy.clip_model.CLIPTextModel(
                text, torch.float16, "meta", ops
            ),
            "first_stage_model.": AutoencoderKL(embed_dim=4, ddconfig=vae),
        }
    shapes = {
        prefix + name: tuple(tensor.shape)
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
    del shapes[
        "cond_stage_model.transformer.text_projection.weight"
    ]  # OpenAI's has none in this file
    return shapes


def shapes_of(module, prefix=""):
    return {prefix + name: tuple(t.shape) for name, t in module.state_dict().items()}


def clip_l_shapes(host):
    import comfy.clip_model
    import comfy.ops

    config = json.loads((host / "comfy" / "sd1_clip_config.json").read_text())
    ops = comfy.ops.disable_weight_init
    with torch.device("meta"):
        return shapes_of(comfy.clip_model.CLIPTextModel(config, torch.float16, "meta", ops))


def clip_vision_shapes(host):
    import comfy.clip_model
    import comfy.ops

    config = json.loads((host / "comfy" / "clip_vision_config_vitl.json").read_text())
    ops = comfy.ops.disable_weight_init
    with torch.device("meta"):
        model = comfy.clip_model.CLIPVisionModelProjection(config, torch.float16, "meta", ops)
    return shapes_of(model)


def detector_shapes(host):
    import comfy.ops

    try:
        from comfy.ldm.rt_detr.rtdetr_v4 import RTv4
    except ImportError:  # a host without this detector
        return {}
    return shapes_of(RTv4(operations=comfy.ops.disable_weight_init))


def controlnet_shapes(host):
    import comfy.cldm.cldm
    import comfy.ops

    unet = small.SD15 | {"model_channels": 320, "num_heads": 8, "hint_channels": 3}
    for name in ("out_channels", "transformer_depth_output"):
        del unet[name]
    with torch.device("meta"):
        model = comfy.cldm.cldm.ControlNet(**unet, operations=comfy.ops.disable_weight_init)
    return shapes_of(model)


MODELS = {
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors": sparse(sd15_shapes),
    "text_encoders/clip_l.safetensors": sparse(clip_l_shapes),
    "clip_vision/clip-vit-large-patch14.safetensors": sparse(clip_vision_shapes),
    "controlnet/control_v11p_sd15_canny_fp16.safetensors": sparse(controlnet_shapes),
    "gligen/gligen_sd14_textbox_pruned.safetensors": gligen("text box", files.save_pruned),
    "gligen/gligen_text_image_box.bin": gligen("text and image box", net="text_image"),
    "gligen/gligen_keypoint.bin": gligen("keypoints", net="keypoint"),
    "gligen/gligen_canny.bin": gligen("canny map", net="canny"),
    "gligen/gligen_hed.bin": gligen("hed map", net="hed"),
    "gligen/gligen_depth.bin": gligen("depth map", net="depth"),
    "gligen/gligen_normal.bin": gligen("normal map", net="normal"),
    "gligen/gligen_sem.bin": gligen("semantic map", net="sem"),
    "gligen/gligen_inpainting_text_box.bin": gligen("text box inpainting"),
    "gligen/gligen_inpainting_text_image_box.bin": gligen(
        "text and image box inpainting", net="text_image"
    ),
    "diffusion_models/rt_detr_v4-x-hgnet_fp16.safetensors": sparse(detector_shapes),
}
CLASSES = "classes.png"
"""A class map in place of the picture that every ComfyUI has."""
RENAMED = ("diffusion_pytorch_model.bin", "model.safetensors")
"""What the authors call every file of theirs."""


# ---------------------------------------------------------------- the files themselves


@each_workflow
def test_files_belong_together(name):
    assert (FOLDER / f"{name}.jpg").is_file(), "the template has no thumbnail"
    workflow, api = ui_form(name), api_form(name)
    nodes = {str(n["id"]): n["type"] for n in workflow["nodes"] if n["type"] not in NOTES}
    assert nodes == {id_: node["class_type"] for id_, node in api.items()}
    assert workflow["version"] == 0.4


def test_every_api_form_has_a_template():
    assert sorted(SHIPPED) == sorted(file.stem for file in (FOLDER / "api").glob("*.json"))


def test_thumbnails_are_small_pictures():
    for file in FOLDER.glob("*.jpg"):
        with Image.open(file) as picture:
            assert picture.format == "JPEG" and min(picture.size) >= 256
        assert file.stat().st_size < 200_000, file.name


@each_workflow
def test_layout_is_readable(name):
    workflow = ui_form(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    boxes = {id_: rectangle(node) for id_, node in nodes.items()}
    for a in boxes:
        for b in boxes:
            assert a >= b or not overlap(boxes[a], boxes[b]), f"{a} and {b} overlap"
    groups = [corners(*group["bounding"]) for group in workflow["groups"]]
    for number, group in enumerate(groups):
        assert workflow["groups"][number]["title"]
        assert not any(overlap(group, other) for other in groups[:number])
    for id_, node in nodes.items():
        holders = [group for group in groups if overlap(boxes[id_], group)]
        if node["type"] in NOTES:
            assert not holders and len(node["widgets_values"][0].splitlines()) == 3
        else:
            (group,) = holders
            assert group[0] < boxes[id_][0] and boxes[id_][2] < group[2]
            assert group[1] < boxes[id_][1] and boxes[id_][3] < group[3]
    for _, source, _, target, *_ in workflow["links"]:
        assert boxes[source][0] <= boxes[target][0], f"{source} is right of {target}"


def rectangle(node):
    (x, y), (width, height) = node["pos"], node["size"]
    return corners(x, y - TITLE, width, height + TITLE)


def corners(x, y, width, height):
    return x, y, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@each_workflow
def test_model_files_can_be_downloaded_from_the_browser(name):
    for node in ui_form(name)["nodes"]:
        if "Loader" in node["type"]:
            (model,) = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0]
            assert f"{model['directory']}/{model['name']}" in MODELS
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].rpartition("/")[2] in (model["name"], *RENAMED)


# ---------------------------------------------------------------- against the nodes


def lacking(server, name):
    """The nodes of a workflow that this ComfyUI, where it is an old one, does not have."""
    return {node["class_type"] for node in api_form(name).values()} - set(
        server.get("/object_info")
    )


def skip_where_lacking(server, name):
    if lacking(server, name):
        pytest.skip(f"this ComfyUI has no {', '.join(lacking(server, name))}")


def test_the_newest_host_has_every_node(server, host_path):
    if f'"{HOST_VERSION}"' in (host_path / "comfyui_version.py").read_text():
        assert not any(lacking(server, name) for name in SHIPPED)


@each_workflow
def test_api_form_fits_the_nodes(server, models, name):
    skip_where_lacking(server, name)
    workflow = api_form(name)
    known = server.get("/object_info")
    for id_, node in workflow.items():
        info = known[node["class_type"]]
        required = info["input"].get("required", {})
        specs = required | info["input"].get("optional", {})
        assert set(required) <= set(node["inputs"]) <= set(specs), id_
        for key, value in node["inputs"].items():
            type_, options = (*specs[key], {})[:2]
            problem = misfit(value, type_, options, workflow, known)
            assert not problem, f"{id_}.{key}: {problem}"


def misfit(value, type_, options, workflow, known):
    """Why a value does not fit an input, or None."""
    if isinstance(value, list):
        source, slot = value
        given = known[workflow[source]["class_type"]]["output"][slot]
        return None if given in type_.split(",") else f"{given} into {type_}"
    choices = type_ if isinstance(type_, list) else options.get("options")
    if choices is not None:
        return None if value in choices else f"{value} is not one of {choices}"
    if type_ in ("INT", "FLOAT"):
        number = isinstance(value, int | float) and (type_ == "FLOAT" or value == int(value))
        fits = number and options.get("min", value) <= value <= options.get("max", value)
        return None if fits else f"{value} is not from {options.get('min')} to {options.get('max')}"
    if type_ == "STRING":
        return None if isinstance(value, str) else f"{value} is no text"
    if type_ == "BOUNDING_BOXES":
        keys = {"x", "y", "width", "height", "metadata"}
        good = all(set(b) == keys and "palette" in b["metadata"] for b in value["__value__"])
        return None if good else f"{value} are no boxes of the editor"
    return f"a value for a {type_}"


def test_server_offers_the_templates(server):
    (names,) = [n for pack, n in server.get("/workflow_templates").items() if "gligen" in pack]
    assert sorted(names) == sorted(SHIPPED)
    pack = next(pack for pack in server.get("/workflow_templates") if "gligen" in pack)
    for name in SHIPPED:
        for file in (f"{name}.json", f"{name}.jpg"):
            served = server.fetch(f"/api/workflow_templates/{pack}/{file}")
            assert served == (FOLDER / file).read_bytes()


# ---------------------------------------------------------------- in the browser

LOAD = """async ([workflow, newNodes]) => {
    await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', newNodes)
    await app.loadGraphData(workflow)
    await new Promise((done) => setTimeout(done, 1500))
    const graph = app.graph.serialize()
    return JSON.stringify({
        graph,
        api: (await app.graphToPrompt()).output,
        unknown: app.graph.nodes.filter((node) => !LiteGraph.registered_node_types[node.type])
            .map((node) => node.type),
        widgets: Object.fromEntries(app.graph.nodes.map((node) =>
            [node.id, (node.widgets ?? []).filter((w) => w.serialize !== false).map((w) => w.name)])),
        dialogs: [...document.querySelectorAll('[role=dialog]')].map((d) => d.innerText),
    })
}"""


def untitled(api: dict) -> dict:
    """Without the titles, which for the host's own nodes are not the same in all of its versions."""
    return {i: {k: v for k, v in node.items() if k != "_meta"} for i, node in api.items()}


NETWORK = ("Failed to load resource", "Content Security Policy", "Fetch API cannot load")


def spreads(host_path) -> bool:
    """The frontend of ComfyUI 0.16 moves all things apart for Nodes 2.0."""
    return '"0.16.' in (host_path / "comfyui_version.py").read_text()


def test_browser_loads_and_saves_them_unchanged(server, host_path, models, browser_page):
    complaints = []
    browser_page.on("pageerror", lambda error: complaints.append(str(error)))
    browser_page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    known = server.get("/object_info")
    try:
        for new_nodes in (True, False):
            for name in (name for name in SHIPPED if not lacking(server, name)):
                workflow = ui_form(name)
                loaded = json.loads(browser_page.evaluate(LOAD, [workflow, new_nodes]))
                assert loaded["unknown"] == [] and loaded["dialogs"] == [], name
                assert untitled(loaded["api"]) == untitled(api_form(name))
                placed = not new_nodes or not spreads(host_path)
                assert contents(loaded["graph"], placed) == contents(workflow, placed)
                check_widgets(workflow, loaded["widgets"], known)
    finally:
        setting = "app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)"
        browser_page.evaluate(f"() => {setting}")
    assert [c for c in complaints if not any(n in c for n in NETWORK)] == []


def check_widgets(workflow, widgets, known):
    """Each node's saved values belong to its inputs' widgets one by one."""
    for node in workflow["nodes"]:
        if node["type"] not in NOTES:
            names = widgets[str(node["id"])]
            inputs = {key for part in known[node["type"]]["input"].values() for key in part}
            assert len(names) == len(node.get("widgets_values") or []), node["type"]
            assert set(names) - GENERATED <= inputs, node["type"]


def contents(workflow, placed: bool = True):
    """What a workflow says, without what the browser measures. placed: with where its things are."""
    workflow = deepcopy(workflow)
    for node in workflow["nodes"]:
        for key in ("size",) if placed else ("size", "pos"):
            del node[key]
    for group in workflow["groups"]:
        group.pop("font_size", None)  # of all groups alike, in older hosts
        if not placed:
            del group["bounding"]
    nodes = sorted(workflow["nodes"], key=lambda node: node["id"])
    return nodes, sorted(workflow["links"]), workflow["groups"], workflow["id"]


RUN = """async (workflow) => {
    await app.loadGraphData(workflow)
    await app.queuePrompt(0)
}"""


def test_the_loader_shows_on_its_node_what_kind_of_model_it_loaded(server, models, browser_page):
    name = next(name for name in MODELS if name.startswith("gligen/") and "keypoint" in name)
    output = {"name": "GLIGEN", "type": "GLIGEN", "links": [1]}
    loader = {
        "id": 1, "type": "GligenModelLoader", "pos": [100, 100], "size": [400, 200],
        "inputs": [], "outputs": [output], "widgets_values": [name.removeprefix("gligen/")],
    }  # fmt: skip
    save = {
        "id": 2, "type": "GligenModelSave", "pos": [600, 100], "size": [300, 100],
        "inputs": [{"name": "gligen", "type": "GLIGEN", "link": 1}], "outputs": [],
        "widgets_values": ["gligen/shown"],
    }  # fmt: skip
    links = [[1, 1, 0, 2, 0, "GLIGEN"]]
    browser_page.evaluate(RUN, {"nodes": [loader, save], "links": links, "version": 0.4})
    browser_page.get_by_text("keypoints (gatedSA), 16 gated layers").wait_for(timeout=120_000)


# ---------------------------------------------------------------- run


@each_workflow
def test_runs_to_a_picture(server, models, name):
    skip_where_lacking(server, name)
    workflow = api_form(name)
    size = (512, 512) if name.startswith("demo_") else (128, 128)
    for node in workflow.values():
        if name == "semantic_map" and node["class_type"] == "LoadImage":
            node["inputs"]["image"] = CLASSES
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
        if node["class_type"] == "EmptyLatentImage" or (
            node["class_type"] == "ImageScale" and not name.startswith("demo_")
        ):
            node["inputs"] |= {"width": 128, "height": 128}
    (image,) = server.run(workflow)
    with Image.open(io.BytesIO(image)) as picture:
        assert picture.size == size
        assert max(high - low for low, high in picture.convert("RGB").getextrema()) > 0


def test_two_servers_run_the_same_workflow_at_once_to_the_same_picture(server, host_path, tmp_path):
    workflow = api_form("demo_text_boxes")
    for node in workflow.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    with Server(host_path, sys.executable, tmp_path, flags=["--cpu"]) as other:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda s: s.run(workflow), (server, other))
    assert first and [*map(pixels, first)] == [*map(pixels, second)]


def pixels(data):
    with Image.open(io.BytesIO(data)) as picture:
        return picture.tobytes()
