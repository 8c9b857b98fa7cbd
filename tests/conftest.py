"""What tests share.

The repository is the package `gligen_pack` in every test: `from gligen_pack.gligen_ops import ...`
needs no ComfyUI; what imports ComfyUI (`gligen_pack.nodes...`) is to be imported inside a test or
fixture that uses `host` or `pack`. There is one copy of every module, so isinstance holds.
"""

import importlib.util
import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACK = "gligen_pack"
BROWSER_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BROWSER_READY = """() => window.app && window.app.graph && window.app.extensionManager
    && !document.querySelector('.p-blockui-mask')"""


def register_pack():
    """Make the repository importable as a package without running its __init__.py."""
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules[PACK] = importlib.util.module_from_spec(spec)


register_pack()

testers = []
"""The processes that share the tests, if they are shared (pytest -n)."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    asked = node.gateway.remote_exec("import os; channel.send(os.getpid())")
    testers.append(asked.receive())
    asked.waitclose()


def pytest_configure():
    """Let SIGTERM end the session by way of its fixtures, which stop what they started."""

    def stop(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the fixtures short
        for pid in testers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        pytest.exit("stopped by SIGTERM", 143)

    signal.signal(signal.SIGTERM, stop)


@pytest.fixture(scope="session")
def host_path():
    """The folder of ComfyUI."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("needs ComfyUI: run `python3 dev.py test`, or set COMFYUI_PATH")
    return Path(path)


@pytest.fixture(scope="session")
def host(host_path, tmp_path_factory):
    """ComfyUI's modules made importable, on the CPU, its folders in a temporary place."""
    sys.path.insert(0, str(host_path))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(tmp_path_factory.mktemp("comfyui"))
    args.database_url = "sqlite:///:memory:"
    return host_path


@pytest.fixture(scope="session")
def pack(host):
    """The pack's root package, executed as ComfyUI does."""
    module = sys.modules[PACK]
    module.__spec__.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def rig(pack):
    """The pack's nodes on a small model: see rig.Rig."""
    from rig import Rig

    return Rig(pack)


@pytest.fixture(scope="session")
def server(host_path, tmp_path_factory):
    """A ComfyUI process with the pack, shared by the session: see devtools.server.Server."""
    from gligen_pack.devtools.server import Server

    base = tmp_path_factory.mktemp("server")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        json.dumps({"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": True})
    )
    stand_ins = Path(__file__).parent / "stand_ins"
    shutil.copytree(stand_ins, base / "custom_nodes" / "gligen_stand_ins")
    with Server(host_path, sys.executable, base, flags=["--cpu"]) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    """Chromium; per module, as its event loop would forbid asyncio.run in others' tests."""
    program = os.environ.get("GLIGEN_CHROMIUM")
    if not program:
        pytest.skip("needs Chromium or Chrome: GLIGEN_CHROMIUM names none")
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=[*BROWSER_FLAGS])
        yield chromium
        chromium.close()


@pytest.fixture
def browser_page(browser, server):
    """ComfyUI's page, loaded and ready for `page.evaluate("app....")`."""
    with browser.new_context(viewport={"width": 1600, "height": 1000}) as context:
        page = context.new_page()
        page.goto(server.url, timeout=120_000)
        page.wait_for_function(BROWSER_READY, timeout=120_000)
        yield page
