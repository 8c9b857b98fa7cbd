"""A ComfyUI server with the pack: started, asked to run workflows, always stopped."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from .console import DevError, Step, end_process, tail
from .environment import ROOT

PACK_LINK = "comfyui-gligen"
PROBE_NODE = "GligenTextBox"
START_LIMIT = 300  # seconds
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoAnswer(DevError):
    """ComfyUI did not answer a request."""


def prepare_base(base, pack=ROOT):
    """Give ComfyUI a folder of its own, with the pack linked in as a custom node."""
    for name in ("custom_nodes", "input", "output", "temp", "models", "user/default"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK_LINK
    remove_link(link)
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(pack), str(link))
    else:
        link.symlink_to(pack, target_is_directory=True)


def remove_link(link):
    """Remove a link to a folder, never what it leads to."""
    if not os.path.lexists(link):
        return
    try:
        link.unlink()
    except OSError:
        link.rmdir()


@contextmanager
def scratch_base():
    """A base folder for one run."""
    base = Path(tempfile.mkdtemp(prefix="comfyui-gligen-"))
    try:
        yield base
    finally:
        remove_link(base / "custom_nodes" / PACK_LINK)
        shutil.rmtree(base, ignore_errors=True)


def device_flags(python):
    """ComfyUI's flags for this machine: it has to be told when there is no GPU."""
    code = (
        "import torch\n"
        "gpus = (torch.cuda, torch.backends.mps, getattr(torch, 'xpu', None))\n"
        "print(any(gpu and gpu.is_available() for gpu in gpus))"
    )
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if result.returncode:
        raise DevError(f"PyTorch does not load in {python}:\n{tail(result.stderr)}")
    return [] if "True" in result.stdout else ["--cpu"]


def port_is_free(port):
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A ComfyUI with the pack, running for the length of a `with` block."""

    def __init__(self, host, python, base, *, log=None, port=None, pack=ROOT, flags=None,
                 probe_node=PROBE_NODE, start_limit=START_LIMIT):  # fmt: skip
        self.host, self.python, self.base = Path(host), Path(python), Path(base)
        self.log = Path(log) if log else self.base / "comfyui.log"
        self.port = port or free_port()
        self.pack, self.flags = pack, flags
        self.probe_node, self.start_limit = probe_node, start_limit
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def __enter__(self):
        try:
            with Step("Starting ComfyUI") as step:
                self.start()
                self._wait_until_ready(step)
                self._check_pack()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        prepare_base(self.base, self.pack)
        flags = device_flags(self.python) if self.flags is None else self.flags
        command = [
            self.python, self.host / "main.py", "--port", self.port, "--base-directory", self.base,
            "--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes",
            *flags,
        ]  # fmt: skip
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=self.base, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            )  # fmt: skip

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            end_process(self.process)

    def read_log(self):
        return self.log.read_bytes().decode(errors="replace")

    def check_alive(self):
        status = self.process.poll()
        if status is not None:
            raise self._failure(f"ComfyUI stopped by itself (exit status {status})")

    def _failure(self, what, excerpt=None):
        excerpt = excerpt or tail(self.read_log())
        return DevError(f"{what}. From its log:\n{excerpt}\nThe whole log: {self.log}")

    def _wait_until_ready(self, step):
        deadline = time.monotonic() + self.start_limit
        while True:
            self.check_alive()
            try:
                self.get("/system_stats")
                return
            except (NoAnswer, urllib.error.HTTPError):
                pass
            if time.monotonic() > deadline:
                raise self._failure(f"ComfyUI did not come up within {self.start_limit} s")
            step.update()
            time.sleep(0.2)

    def _check_pack(self):
        if self.probe_node and self.probe_node not in self.get(f"/object_info/{self.probe_node}"):
            excerpt = import_failure(self.read_log())
            raise self._failure("ComfyUI runs, but the GLIGEN nodes did not load", excerpt)

    def fetch(self, path, payload=None):
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data)
        request.add_header("Content-Type", "application/json")
        try:
            with NO_PROXY.open(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise NoAnswer(f"ComfyUI does not answer at {self.url}: {error}") from error

    def get(self, path):
        return json.loads(self.fetch(path))

    def queue(self, workflow):
        """Queue a workflow in API format; its id."""
        try:
            return json.loads(self.fetch("/prompt", {"prompt": workflow}))["prompt_id"]
        except urllib.error.HTTPError as error:
            raise DevError(refusal(error.read())) from None

    def wait(self, prompt_id, report=None):
        """The history entry of a workflow once it has run; `report` is told its state."""
        while True:
            self.check_alive()
            try:
                entry = self.get(f"/history/{prompt_id}").get(prompt_id)
                if entry:
                    return entry
            except NoAnswer:  # too busy
                pass
            if report:
                report(sampling_state(self.read_log()))
            time.sleep(0.2)

    def run(self, workflow, report=None):
        """Run a workflow in API format; the pictures it saved, as encoded bytes."""
        entry = self.wait(self.queue(workflow), report)
        failure = failure_of(entry)
        if failure:
            raise DevError(f"{failure}\nThe whole log: {self.log}")
        return self.pictures(entry)

    def pictures(self, entry):
        """The pictures that a workflow saved, as encoded bytes."""
        return [self.fetch("/view?" + urllib.parse.urlencode(i)) for i in saved_images(entry)]


def import_failure(log):
    """The lines in ComfyUI's log that tell why the pack did not load, if any."""
    pack = rf".*custom_nodes.{PACK_LINK}\b.*$"
    imported = re.search(r"^.*Cannot import " + pack, log, re.MULTILINE)
    if imported:
        start = log.rfind("Traceback (most recent call last)", 0, imported.start())
        return tail(log[max(start, 0) : imported.end()], 40)
    reasons = re.finditer(r"^.*(?:Error while calling|Skip) " + pack, log, re.MULTILINE)
    return tail("\n".join(reason.group() for reason in reasons))


def sampling_state(log):
    steps = re.findall(r"\b(\d+)/(\d+) \[\d", log[-400:])
    return "step {}/{}".format(*steps[-1]) if steps else "running"


def refusal(body):
    """What ComfyUI says about a workflow it does not take."""
    try:
        answer = json.loads(body)
        lines = [f"ComfyUI does not take the workflow: {answer['error']['message']}"]
        for node_id, node in (answer.get("node_errors") or {}).items():
            for error in node["errors"]:
                reason = f"{error['message']} ({error['details']})"
                lines.append(f"  node {node_id}, {node['class_type']}: {reason}")
        return "\n".join(lines)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"ComfyUI does not take the workflow: {body.decode(errors='replace')}"


def failure_of(entry):
    """Why a workflow did not run to its end, or None when it did."""
    status = entry.get("status") or {}
    if status.get("status_str") != "error":
        return None
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            node = f"node {data['node_id']}, {data['node_type']}"
            what = f"{data['exception_type']}: {data['exception_message'].strip()}"
            trace = tail("".join(data.get("traceback") or []), 6)
            return f"The workflow failed at {node}:\n  {what}\n{trace}"
    return "The workflow was interrupted."


def saved_images(entry):
    """Where the SaveImage nodes put their pictures (previews are not of type output)."""
    outputs = entry["outputs"].values()
    images = [image for output in outputs for image in output.get("images", [])]
    return [image for image in images if image.get("type") == "output"]
