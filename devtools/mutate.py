"""How many faults the tests notice: `python3 dev.py mutate`.

Faults of cosmic-ray's operators are put into copies of the repository, one at a time, and the tests run
there. A seed decides which: places in the code first, then one of the faults that are possible in
each, so that a place with many of them counts once.
"""

import argparse
import difflib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from . import pack

ROOT = Path(__file__).resolve().parents[1]
FILES = ("gligen_ops/**/*.py", "nodes/seam/*.py")
LEFT_OUT = ("gligen_ops/learning/*",)
HOST_TESTS = (
    "carrier grounding strengths places kept inpaint operations new_kind phrases regions other_packs speed "
    "features architectures runs compiled groundings"
).split()
"""Those of the tests with the host that a fault in what all nodes share shows in, the quick ones first."""
PATIENCE = 900  # seconds: a fault that makes the tests hang is noticed too
LEFT_BEHIND = shutil.ignore_patterns(".git", "__pycache__", "output", "run")


class Fault(NamedTuple):
    file: str
    line: int
    operator: str
    occurrence: int


class Result(NamedTuple):
    fault: Fault | None
    end: str  # "caught", "hung" or "survived"
    diff: str


def faults_in(root: Path, patterns: Sequence[str]) -> dict[tuple, list[Fault]]:
    """All that the operators can do, by file and place."""
    from cosmic_ray.ast import ast_nodes, get_ast_from_path
    from cosmic_ray.plugins import get_operator, operator_names

    operators = {name: get_operator(name) for name in operator_names()}
    operators = {name: make() for name, make in operators.items() if not make.arguments()}
    found = defaultdict(list)
    for file in sorted(set().union(*(root.glob(pattern) for pattern in patterns))):
        if any(file.relative_to(root).match(pattern) for pattern in LEFT_OUT):
            continue
        tree = get_ast_from_path(file)
        for name, operator in operators.items():
            places = ((n, p) for n in ast_nodes(tree) for p in operator.mutation_positions(n))
            for occurrence, (node, (start, end)) in enumerate(places):
                if not is_annotation(node):
                    fault = Fault(str(file.relative_to(root)), start[0], name, occurrence)
                    found[file, start, end].append(fault)
    return found


def is_annotation(node) -> bool:
    """Whether a syntax node of parso's is of a type, which runs only where somebody asks."""
    while node.parent is not None:
        parent = node.parent
        of_value = parent.type == "annassign" and node is parent.children[1]
        of_parameter = parent.type == "tfpdef" and node is parent.children[-1]
        of_result = parent.type == "funcdef" and node is parent.annotation
        if of_value or of_parameter or of_result:
            return True
        node = parent
    return False


def tests_for(fault: Fault | None, root: Path) -> list[str]:
    """Test files, those that name the module with the fault first."""
    tests = [root / "tests" / f"test_{name}.py" for name in HOST_TESTS]
    if fault is None or fault.file.startswith("gligen_ops"):
        tests = [*sorted((root / "tests" / "ops").glob("test_*.py")), *tests]
    module = Path(fault.file).stem if fault else ""
    tests = [file for file in tests if file.is_file()]
    return [str(t) for t in sorted(tests, key=lambda t: module not in t.read_text("utf-8"))]


def put_in(fault: Fault, root: Path) -> str:
    """Write the fault into the tree; what it changes."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    file = root / fault.file
    before = file.read_text("utf-8")
    after = mutate_code(before, get_operator(fault.operator)(), fault.occurrence)
    file.write_text(after, "utf-8")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(list(lines)[3:])


def run_tests(tests: Sequence[str], root: Path) -> str:
    """In a process that has the host and PyTorch already, as their import takes longer than most tests."""
    child = os.fork()
    if not child:
        os.chdir(root)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]) != 0))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "caught" if status else "survived"
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hung"


def tried(fault: Fault | None) -> Result:
    """None: the tree as it is."""
    with tempfile.TemporaryDirectory(prefix="gligen-mutate-") as folder:
        copy = Path(folder) / "pack"
        shutil.copytree(ROOT, copy, ignore=LEFT_BEHIND)
        diff = put_in(fault, copy) if fault else ""
        return Result(fault, run_tests(tests_for(fault, copy), copy), diff)


def warm_up() -> None:
    """Import what takes long, but none of the pack's own."""
    pack.import_host("cpu")
    import comfy.samplers  # noqa: F401
    import diffusers  # noqa: F401


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py mutate", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100, help="of faults (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses them (%(default)s)")
    parser.add_argument("--files", nargs="+", default=FILES, metavar="PATTERN", help="where")
    arguments = parser.parse_args(argv)
    if not hasattr(os, "fork"):
        sys.exit("error: this needs a system that can fork a process, such as Linux or macOS.")
    places = list(faults_in(ROOT, arguments.files).values())
    chance = random.Random(arguments.seed)
    chosen = chance.sample(places, min(arguments.count, len(places)))
    faults = [chance.choice(possible) for possible in chosen]
    warm_up()
    ends: Counter[str] = Counter()
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        asked = pool.imap_unordered(tried, [None, *faults])
        for result in tqdm(asked, total=len(faults) + 1, mininterval=5):
            if result.fault is None:
                if result.end != "survived":
                    sys.exit(
                        "error: the tests fail without a fault too: run `python3 dev.py test`."
                    )
                continue
            ends[result.end] += 1
            if result.end == "survived":
                tqdm.write(f"\n{result.fault.file}:{result.fault.line}\n{result.diff}")
    print(f"{len(places)} places; {len(faults)} faults: {dict(ends)}")
    print(f"noticed: {1 - ends['survived'] / max(1, len(faults)):.0%}")


if __name__ == "__main__":
    main()
