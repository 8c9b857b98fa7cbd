"""dev.py's set-up, server and commands, with fakes for pip and ComfyUI."""

import errno
import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
from gligen_pack.devtools import commands, console, environment
from gligen_pack.devtools.console import DevError
from gligen_pack.devtools.server import Server, prepare_base, scratch_base

ROOT = Path(__file__).resolve().parents[1]

FAKE_COMFYUI = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

NODES = {"GligenTextBox": {}}
HISTORY = {
    "good": {"outputs": {"9": {"images": [
        {"filename": "a.png", "subfolder": "", "type": "output"},
        {"filename": "b.png", "subfolder": "", "type": "temp"},
    ]}}},
    "bad": {"outputs": {}, "status": {"status_str": "error", "messages": [
        ["execution_error", {"node_id": "3", "node_type": "KSampler", "traceback": [],
                             "exception_type": "ValueError", "exception_message": "too large"}],
    ]}},
}
REFUSAL = {"error": {"message": "failed validation"}, "node_errors": {"4": {
    "class_type": "LoadImage", "errors": [{"message": "Invalid file", "details": "cat.png"}]}}}


class Handler(BaseHTTPRequestHandler):
    def answer(self, body, status=200):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    def do_GET(self):
        last = self.path.split("/")[-1]
        if self.path.startswith("/object_info/"):
            self.answer({last: NODES[last]} if last in NODES else {})
        elif self.path.startswith("/history/"):
            self.answer({last: HISTORY[last]} if last in HISTORY else {})
        else:
            self.answer(self.path.encode() if self.path.startswith("/view") else {})

    def do_POST(self):
        kind = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]["kind"]
        self.answer(*([REFUSAL, 400] if kind == "refused" else [{"prompt_id": kind}]))


port = int(sys.argv[sys.argv.index("--port") + 1])
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Run a command line; its exit status and what it printed to stderr."""
    monkeypatch.setattr(commands, "stop_on_signals", lambda: None)

    def run(*argv):
        status = commands.main(list(argv))
        return status, capsys.readouterr().err

    return run


# ---------------------------------------------------------------- set-up


def make_archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


class FakeSteps:
    """Stands in for run_step: does what venv and pip would, and keeps the titles."""

    def __init__(self, archive):
        self.archive, self.titles, self.failing = archive, [], {}

    def __call__(self, title, command, advice):
        kind = title.split()[0] + " " + title.split()[1]
        self.titles.append(kind)
        if "venv" in command:
            python = environment.env_python(command[-1])
            python.parent.mkdir(parents=True)
            python.touch()
        if "download" in command:
            target = command[command.index("--dest") + 1] / "host-1.tar.gz"
            target.write_bytes(self.archive.read_bytes())
        time.sleep(0.01)
        if kind in self.failing:
            raise self.failing.pop(kind)


EVERYTHING = ["Creating a", "Downloading ComfyUI", "Installing PyTorch", "Installing what"]


@pytest.fixture
def steps(monkeypatch, tmp_path):
    archive = tmp_path / "archive.tar.gz"
    make_archive(archive, {"x-1/vendor/ComfyUI/main.py": b"", "x-1/vendor/ComfyUI/a/b.py": b"b"})
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    fake = FakeSteps(archive)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("GLIGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(environment, "HOSTS", {environment.HOST_VERSION: ("1", digest)})
    monkeypatch.setattr(environment, "SPACE_NEEDED_GB", 0)
    monkeypatch.setattr(environment, "run_step", fake)
    return fake


def forget(steps):
    done, steps.titles = steps.titles, []
    return done


def test_key_changes_with_every_pin(monkeypatch):
    keys = {environment.env_key()}
    monkeypatch.setattr(environment, "TORCH", ("torch==1",))
    keys.add(environment.env_key())
    monkeypatch.setattr(environment, "HOSTS", {environment.HOST_VERSION: ("1", "0" * 64)})
    keys.add(environment.env_key())
    monkeypatch.setattr(sys, "platform", "elsewhere")
    keys.add(environment.env_key())
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    keys.add(environment.env_key())
    assert len(keys) == 5


def test_everything_is_kept_outside_the_repository(monkeypatch):
    monkeypatch.delenv("GLIGEN_CACHE", raising=False)
    assert not environment.cache_dir().is_relative_to(ROOT)


def test_second_set_up_has_nothing_to_do(steps):
    first = environment.set_up()
    assert forget(steps) == EVERYTHING
    assert environment.set_up() == first
    assert forget(steps) == []
    assert (first.host / "a" / "b.py").read_text() == "b"


def test_test_packages_are_added_to_what_is_there(steps):
    environment.set_up()
    forget(steps)
    environment.set_up(dev=True)
    assert forget(steps) == ["Installing what"]
    environment.set_up()
    environment.set_up(dev=True)
    assert forget(steps) == []


def test_changed_test_packages_are_installed(steps, monkeypatch, tmp_path):
    environment.set_up(dev=True)
    forget(steps)
    monkeypatch.setattr(environment, "DEV_REQUIREMENTS", tmp_path / "changed.txt")
    environment.DEV_REQUIREMENTS.write_text("pytest==1")
    environment.set_up(dev=True)
    assert forget(steps) == ["Installing what"]


@pytest.mark.parametrize("kind", EVERYTHING)
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), DevError("pip failed")])
def test_interrupted_set_up_is_repaired(steps, kind, failure):
    steps.failing[kind] = failure
    with pytest.raises(type(failure)):
        environment.set_up(dev=True)
    forget(steps)
    runtime = environment.set_up(dev=True)
    assert "Installing PyTorch" in forget(steps)
    assert runtime.python.exists() and (runtime.host / "main.py").exists()


def test_environment_without_stamp_is_built_anew(steps):
    runtime = environment.set_up()
    forget(steps)
    env = runtime.python.parents[1]
    (env / "half_a_package").touch()
    (env / "installed.txt").unlink()
    environment.set_up()
    assert forget(steps) == [step for step in EVERYTHING if "Download" not in step]
    assert not (env / "half_a_package").exists()


def test_environment_without_python_is_built_anew(steps):
    environment.set_up().python.unlink()
    forget(steps)
    assert environment.set_up().python.exists()


def test_missing_comfyui_is_fetched_alone(steps):
    runtime = environment.set_up(dev=True)
    forget(steps)
    (runtime.host / "main.py").unlink()
    environment.set_up()
    environment.set_up(dev=True)
    assert forget(steps) == ["Downloading ComfyUI"]
    assert (runtime.host / "main.py").exists()


def test_leftovers_are_removed(steps):
    leftover = environment.cache_dir() / "tmp-killed"
    leftover.mkdir(parents=True)
    environment.set_up()
    assert not leftover.exists()


def test_full_disk_is_told_and_repaired(steps, run_main):
    steps.failing["Installing PyTorch"] = OSError(errno.ENOSPC, "No space left on device")
    status, message = run_main("train-demo")
    assert status == 1 and "disk is full" in message and "GLIGEN_CACHE" in message
    environment.set_up()


def test_too_little_space_is_told_at_once(steps, monkeypatch):
    monkeypatch.setattr(environment, "SPACE_NEEDED_GB", 10**9)
    with pytest.raises(DevError, match="GB are free"):
        environment.set_up()
    assert steps.titles == []


def test_altered_download_is_refused_and_removed(steps):
    make_archive(steps.archive, {"x-1/vendor/ComfyUI/main.py": b"altered"})
    with pytest.raises(DevError, match="not the file that was expected"):
        environment.set_up()
    assert not list(environment.cache_dir().glob("comfyui-*"))
    assert not list(environment.cache_dir().rglob("*.tar.gz"))


def test_hash_mismatch_removes_the_file(tmp_path):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(b"x")
    with pytest.raises(DevError, match="sha256"):
        environment.check_hash(archive, "0" * 64)
    assert not archive.exists()


def test_unpacking_takes_only_files_of_comfyui(tmp_path):
    archive = tmp_path / "a.tar.gz"
    inside = "x-1/vendor/ComfyUI/"
    files = {inside + "main.py": b"", inside + "../../../out.py": b"", "x-1/other.py": b""}
    make_archive(archive, files)
    environment.unpack_host(archive, tmp_path / "new" / "host")
    found = [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert found == ["main.py"] and not (tmp_path / "out.py").exists()


def test_two_set_ups_at_once_install_once(steps):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(environment.set_up())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert forget(steps) == EVERYTHING
    assert len(results) == 4 and len(set(results)) == 1


def test_lock_of_a_killed_process_is_free(tmp_path, capsys):
    lock = tmp_path / "setup.lock"
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from devtools.environment import locked\n"
        "with locked(Path(sys.argv[2])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.5, holder.kill).start()
        with environment.locked(lock):
            assert "Waiting for another set-up" in capsys.readouterr().out


def test_wrong_comfyui_path_is_told(monkeypatch, tmp_path, run_main):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    status, message = run_main("test")
    assert status == 1
    assert str(tmp_path) in message and "main.py" in message and "unset" in message


def test_own_comfyui_runs_with_this_python(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: True)
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    runtime = environment.set_up(dev=True)
    assert runtime == (Path(sys.executable), tmp_path.resolve())


@pytest.mark.parametrize(
    "missing, file",
    [("torch", "requirements"), ("pytest", "requirements-dev"), ("xdist", "requirements-dev")],
)
def test_missing_package_of_own_python_is_told(monkeypatch, tmp_path, missing, file):
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    found = {"torch", "pytest", "xdist"} - {missing}
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: name in found or None)
    with pytest.raises(DevError, match=rf"{missing} is missing[\s\S]*pip install -r .*{file}.txt"):
        environment.set_up(dev=True)


def test_failed_step_shows_the_end_of_its_output():
    code = "for n in range(99): print('line', n)\nraise SystemExit(2)"
    with pytest.raises(DevError) as caught:
        console.run_step("Trying", [sys.executable, "-c", code], "Do that.")
    assert "line 98" in str(caught.value) and "line 50\n" not in str(caught.value)
    assert str(caught.value).endswith("Do that.")


def test_full_disk_in_a_step_is_recognised():
    code = "print('ERROR: [Errno 28] No space left on device'); raise SystemExit(1)"
    with pytest.raises(OSError) as caught:
        console.run_step("Trying", [sys.executable, "-c", code], "")
    assert caught.value.errno == errno.ENOSPC


def test_tail_keeps_the_latest_state_of_progress_bars():
    assert console.tail("\x1b[32mone\x1b[0m\r\n 10%\r 20%\n\n") == "  one\n   20%"


# ---------------------------------------------------------------- server


@pytest.fixture
def make_server(tmp_path):
    """A Server whose ComfyUI is the given program."""

    def make(program, **options):
        host = tmp_path / "host"
        host.mkdir()
        (host / "main.py").write_text(program)
        return Server(host, sys.executable, tmp_path / "base", flags=[], **options)

    return make


def test_workflow_gives_the_saved_pictures(make_server):
    with make_server(FAKE_COMFYUI) as server:
        assert server.run({"kind": "good"}) == [b"/view?filename=a.png&subfolder=&type=output"]
    assert server.process.poll() is not None


def test_refused_workflow_names_the_node(make_server):
    with make_server(FAKE_COMFYUI) as server:
        with pytest.raises(DevError, match=r"node 4, LoadImage: Invalid file \(cat.png\)"):
            server.run({"kind": "refused"})


def test_failed_workflow_names_node_and_reason(make_server):
    with make_server(FAKE_COMFYUI) as server:
        with pytest.raises(DevError, match=r"node 3, KSampler:\n  ValueError: too large"):
            server.run({"kind": "bad"})
    assert server.process.poll() is not None


def test_server_dying_at_start_shows_its_log(make_server):
    server = make_server("print('CUDA is broken'); raise SystemExit(3)")
    with pytest.raises(DevError) as caught, server:
        pass
    message = str(caught.value)
    assert "exit status 3" in message and "CUDA is broken" in message
    assert str(server.log) in message


def test_server_dying_during_a_workflow_is_told(make_server):
    with make_server(FAKE_COMFYUI) as server:
        threading.Timer(0.5, server.process.kill).start()
        with pytest.raises(DevError, match="stopped by itself"):
            server.run({"kind": "endless"})


def test_server_that_does_not_come_up_is_stopped(make_server):
    server = make_server("import time; time.sleep(60)", start_limit=1)
    with pytest.raises(DevError, match="did not come up within 1 s"), server:
        pass
    assert server.process.poll() is not None


def test_pack_that_does_not_load_shows_its_traceback(make_server):
    log = """print('''[INFO] fine
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ImportError: no einops
Cannot import /base/custom_nodes/comfyui-gligen module for custom nodes: no einops
[INFO] later''', flush=True)
"""
    server = make_server(log + FAKE_COMFYUI.replace("GligenTextBox", "Other"))
    with pytest.raises(DevError) as caught, server:
        pass
    assert "did not load" in str(caught.value) and "ImportError: no einops" in str(caught.value)
    assert "fine" not in str(caught.value) and "later" not in str(caught.value)
    assert server.process.poll() is not None


def test_pack_with_a_failing_entry_point_shows_why(make_server):
    reason = "Error while calling comfy_entrypoint in /base/custom_nodes/comfyui-gligen: no einops"
    log = f"print('other news'); print({reason!r}, flush=True)\n"
    server = make_server(log + FAKE_COMFYUI.replace("GligenTextBox", "Other"))
    with pytest.raises(DevError) as caught, server:
        pass
    assert reason in str(caught.value) and "other news" not in str(caught.value)


def test_pack_link_is_renewed_and_its_target_kept(tmp_path):
    packs = [tmp_path / "one", tmp_path / "two"]
    for folder in packs:
        folder.mkdir()
        (folder / "__init__.py").write_text(folder.name)
    with scratch_base() as base:
        for folder in packs:
            prepare_base(base, folder)
        assert (base / "custom_nodes/comfyui-gligen/__init__.py").read_text() == "two"
    assert not base.exists()
    assert all((folder / "__init__.py").exists() for folder in packs)


# ---------------------------------------------------------------- commands


def test_taken_port_is_told(run_main):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        status, message = run_main("serve", "--port", str(port))
    assert status == 1
    assert f"Port {port} is taken" in message and f"--port {port + 1}" in message


def test_unknown_demo_is_told(run_main):
    status, message = run_main("demo", "no_such_demo")
    assert status == 1 and "no_such_demo" in message


@pytest.mark.parametrize("name", ["test", "train-demo"])
def test_arguments_are_handed_on_as_they_are(name):
    rest = ["-k", "x or y", "--", "a.py", "--help"]
    assert commands.parse_args([name, *rest]).rest == rest


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_killed_program_is_told():
    runtime = environment.Runtime(Path(sys.executable), ROOT)
    with pytest.raises(DevError, match="ended by signal 9"):
        commands.run_python(runtime, "-c", "import os; os.kill(os.getpid(), 9)")
    assert commands.run_python(runtime, "-c", "raise SystemExit(5)") == 5


LONG_TEST = """
from pathlib import Path
from time import sleep

import pytest


@pytest.fixture
def server():
    Path("started").touch()
    yield
    Path("stopping").touch()
    sleep(0.5)
    Path("stopped").touch()


def test_long(server):
    while True:
        try:
            sleep(60)
        except KeyboardInterrupt:  # what pytest-xdist sends after a while, for want of better
            pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_shared_tests_told_to_stop_stop_what_they_started(tmp_path):
    (tmp_path / "test_long.py").write_text(LONG_TEST)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "conftest"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    try:
        wait_for(tmp_path / "started")
        process.terminate()
        wait_for(tmp_path / "stopping")
        process.terminate()  # whoever tells a group of processes tells this one twice, dev.py being in it
        wait_for(tmp_path / "stopped", limit=20)
    finally:
        process.kill()
        process.wait()


def wait_for(file, limit=60):
    deadline = time.monotonic() + limit
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file.name}"
        time.sleep(0.05)


def test_pictures_are_numbered(tmp_path):
    paths = commands.save_pictures([b"1", b"2"], tmp_path / "output" / "demo_x.png")
    assert [path.name for path in paths] == ["demo_x.png", "demo_x_2.png"]
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]


def test_chromium_can_be_named(monkeypatch):
    monkeypatch.setenv("GLIGEN_CHROMIUM", sys.executable)
    assert commands.find_chromium() == sys.executable


def test_tests_run_on_the_newest_host_or_on_those_that_are_named(monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    every = list(environment.HOSTS)
    assert commands.hosts_of(["-k", "boxes"]) == ([environment.HOST_VERSION], ["-k", "boxes"])
    assert commands.hosts_of(["--hosts", "all", "-x"]) == (every, ["-x"])
    assert commands.hosts_of(["-x", "--hosts", ",".join(every[:2])]) == (every[:2], ["-x"])
    for wrong in (["--hosts"], ["--hosts", "0.1"], ["--hosts", "0.30.0,"]):
        with pytest.raises(DevError, match=r"--hosts takes all or some of .*0\.30\.0"):
            commands.hosts_of(wrong)
    monkeypatch.setenv("COMFYUI_PATH", "/somewhere")
    with pytest.raises(DevError, match="unset COMFYUI_PATH"):
        commands.hosts_of(["--hosts", "all"])
