"""The commands of dev.py. A new one: a function, and a line in `parse_args`."""

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from .console import DevError, Step, end_process
from .environment import HOST_VERSION, HOSTS, ROOT, SPACE_NEEDED_GB, cache_dir, set_up
from .server import Server, port_is_free, scratch_base

KEEPING_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**30),
}
"""glibc gives large tensors back to the system, which zeroes their pages each time they are taken again:
on some machines that takes as long as the arithmetic. With this it keeps them, as PyTorch does on a GPU."""
TESTERS = 2
"""How many processes share the tests, a file each, and each with a server of its own."""


def demo(args):
    workflow = find_demo(args.name)
    runtime = set_up()
    log = cache_dir() / "logs" / f"{workflow.stem}.log"
    with scratch_base() as base, Server(runtime.host, runtime.python, base, log=log) as server:
        with Step(f"Running {workflow.name}") as step:
            images = server.run(json.loads(workflow.read_text(encoding="utf-8")), step.update)
    if not images:
        raise DevError(f"{workflow.name} ran, but saved no picture.")
    for picture in save_pictures(images, ROOT / "output" / f"{workflow.stem}.png"):
        annotated = picture.with_name(f"{picture.stem}_boxes.png")
        status = run_module(runtime, "measuring.show", picture, workflow, annotated)
        if status:
            raise DevError(f"The picture is {picture}, but measuring.show failed on it.")
        print(f"Picture:    {picture}\nWith boxes: {annotated}")


def find_demo(name):
    folder = ROOT / "example_workflows" / "api"
    workflow = folder / f"demo_{name}.json"
    if not workflow.is_file():
        names = sorted(file.stem[len("demo_") :] for file in folder.glob("demo_*.json"))
        raise DevError(f"There is no demo '{name}'. There are: {', '.join(names) or 'none yet'}.")
    return workflow


def save_pictures(images, first):
    """Write the pictures as NAME.png, NAME_2.png, ...; their paths."""
    first.parent.mkdir(exist_ok=True)
    paths = [first.with_name(f"{first.stem}_{n + 1}.png") for n in range(len(images))]
    paths[0] = first
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    return paths


def test(args):
    versions, rest = hosts_of(args.rest)
    chromium = find_chromium()
    if not chromium:
        print(
            "No Chromium or Chrome found: the browser tests will be skipped. To run them, install "
            "one (Debian, Ubuntu: apt install chromium) or set GLIGEN_CHROMIUM to its program."
        )
    env = {"GLIGEN_CHROMIUM": chromium} if chromium else {}
    env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // TESTERS))
    shared_out = ("-n", TESTERS, "--dist", "loadfile")
    statuses = {}
    for version in versions:
        runtime = set_up(dev=True, host_version=version)
        if len(versions) > 1:
            print(f"\nComfyUI {version}")
        statuses[version] = run_python(runtime, "-m", "pytest", *shared_out, *rest, **env)
    if len(versions) > 1:
        print()
        for version, status in statuses.items():
            print(f"ComfyUI {version}: {'failed' if status else 'passed'}")
    return max(statuses.values())


def hosts_of(rest):
    """The ComfyUI versions to test on, and pytest's arguments: `--hosts all`, or `--hosts` and some
    with commas between, may stand among them."""
    rest = list(rest)
    if "--hosts" not in rest:
        return [HOST_VERSION], rest
    at = rest.index("--hosts")
    wanted = ",".join(rest[at + 1 : at + 2])
    versions = list(HOSTS) if wanted == "all" else wanted.split(",")
    unknown = [version for version in versions if version not in HOSTS]
    if unknown:
        raise DevError(f"--hosts takes all or some of {', '.join(HOSTS)}, and got '{wanted}'.")
    if os.environ.get("COMFYUI_PATH"):
        raise DevError("--hosts sets up ComfyUIs of its own: unset COMFYUI_PATH, which is another.")
    return versions, rest[:at] + rest[at + 2 :]


def find_chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    programs = [os.environ.get("GLIGEN_CHROMIUM"), *map(shutil.which, names)]
    for name in ("Chromium", "Google Chrome"):
        programs.append(f"/Applications/{name}.app/Contents/MacOS/{name}")
    for variable in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
        programs.append(os.environ.get(variable, "") + r"\Google\Chrome\Application\chrome.exe")
    return next((program for program in programs if program and Path(program).is_file()), None)


def train_demo(args):
    return run_module(set_up(dev=True), "demo.training.train", *args.rest)


def measure_demo(args):
    return run_module(set_up(dev=True), "measuring.measure", *args.rest)


def mutate(args):
    return run_python(set_up(dev=True), "-m", "devtools.mutate", *args.rest, OMP_NUM_THREADS="1")


def fuzz(args):
    """The tests of the readers with ever other inputs, until the time is over or something is found."""
    runtime = set_up(dev=True)
    end, seed = time.monotonic() + 60 * args.minutes, args.seed
    while time.monotonic() < end:
        print(f"Seed {seed}", flush=True)
        command = ("-m", "pytest", "-q", "tests/test_fuzz.py", f"--hypothesis-seed={seed}")
        status = run_python(runtime, *command, GLIGEN_FUZZ="1")
        if status:
            return status
        seed += 1
    return 0


def bench(args):
    return run_python(set_up(dev=True), "-m", "benchmark", *args.rest, **KEEPING_MEMORY)


def serve(args):
    if not port_is_free(args.port):
        raise DevError(
            f"Port {args.port} is taken by another program, maybe another ComfyUI.\n"
            f"Stop that, or choose another one: python3 dev.py serve --port {args.port + 1}"
        )
    runtime = set_up()
    base = cache_dir() / "serve"
    log = cache_dir() / "logs" / f"serve-{args.port}.log"
    try:
        with Server(runtime.host, runtime.python, base, log=log, port=args.port) as server:
            print(f"ComfyUI with the GLIGEN nodes: {server.url}   (Ctrl-C stops it)")
            print(f"Models, pictures: {base}\nLog:              {log}", flush=True)
            while True:
                server.check_alive()
                time.sleep(0.5)
    except KeyboardInterrupt:
        print("\nStopped.")


def run_module(runtime, module, *args):
    """Run the `main` of one of the pack's modules, in ComfyUI's stead."""
    return run_python(runtime, "-m", "devtools.pack", module, *args)


def run_python(runtime, *args, **env):
    """Run the environment's Python in the repository, its output going where ours goes."""
    sys.stdout.flush()
    command = [str(part) for part in (runtime.python, *args)]
    env = {**os.environ, "COMFYUI_PATH": str(runtime.host), **env}
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    try:
        status = process.wait()
    except BaseException as stopped:
        if not isinstance(stopped, KeyboardInterrupt):  # a terminal's Ctrl-C reaches both
            process.terminate()
        end_process(process, patience=20)
        raise
    if status < 0:
        raise DevError(
            f"{' '.join(command[1:])} was ended by signal {-status} "
            "(9 is often the system's answer to too little memory)."
        )
    return status


def parse_args(argv):
    parser = argparse.ArgumentParser(
        prog="dev.py", description="Demos and tests of the GLIGEN nodes."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text, passes_on=None):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        if passes_on:
            sub.add_argument("rest", nargs="*", metavar="...", help=passes_on)
            passing.append(name)
        return sub

    passing = []
    sub = command("demo", demo, "make a demo's picture on this machine")
    sub.add_argument("name", nargs="?", default="text_boxes", help="which (%(default)s)")
    command("test", test, "run the tests", "--hosts all: on every ComfyUI; the rest: to pytest")
    sub = command("serve", serve, "run ComfyUI with the nodes, to play in a browser")
    sub.add_argument("--port", type=int, default=8188, help="where (%(default)s)")
    command(
        "train-demo",
        train_demo,
        "train the demo's model anew",
        "handed on to demo/training/train.py",
    )
    command(
        "measure-demo",
        measure_demo,
        "measure how well it places",
        "handed on to measuring/measure.py",
    )

    command(
        "mutate", mutate, "see how many faults the tests notice", "--count N --seed N --files ..."
    )
    sub = command("fuzz", fuzz, "feed the readers with whatever")
    sub.add_argument("--minutes", type=float, default=10, help="how long (%(default)s)")
    sub.add_argument("--seed", type=int, default=1, help="the first (%(default)s)")
    command("bench", bench, "time grounding against what it is built on", "handed on to benchmark/")

    if argv[:1] and argv[0] in passing and argv[1:] not in (["-h"], ["--help"]):
        args = parser.parse_args(argv[:1])
        args.rest = argv[1:]
        return args
    return parser.parse_args(argv)


def stop_on_signals():
    """Let SIGTERM and a closed terminal end this program by way of its `finally` blocks."""

    def stop(number, _frame):
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


def explain(error):
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return (
            f"The disk is full. Free some space (the set-up needs about {SPACE_NEEDED_GB} GB in "
            f"{cache_dir()}; GLIGEN_CACHE moves it), then run the same command again."
        )
    return f"{error}\n(Everything dev.py installs goes to {cache_dir()}; GLIGEN_CACHE moves it.)"


def main(argv=None):
    stop_on_signals()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    args = parse_args(sys.argv[1:] if argv is None else argv)
    try:
        return args.function(args) or 0
    except DevError as error:
        message = str(error)
    except OSError as error:
        message = explain(error)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    print(f"error: {message}", file=sys.stderr)
    return 1
