"""dev.py mutate, on a tree of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = """
def is_above(x: "int" + "s"):
    return x > 0


def spare(x):
    return x + 1
"""
TEST = """
import sys
sys.path.insert(0, ".")
from gligen_ops.above import is_above

def test_above():
    assert [is_above(x) for x in (-1, 0, 0.5)] == [False, False, {last}]
"""
RUN = """
import sys
from pathlib import Path
from devtools import mutate
mutate.ROOT = Path(sys.argv[1])
mutate.warm_up = lambda: None
mutate.main(["--count", "20"])
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def mutated(folder, last):
    code, tests = folder / "gligen_ops" / "above.py", folder / "tests" / "ops"
    for path in (code.parent, tests):
        path.mkdir(parents=True)
    code.write_text(CODE)
    (tests / "test_above.py").write_text(TEST.format(last=last))
    result = subprocess.run(
        [sys.executable, "-c", RUN, folder], cwd=ROOT, capture_output=True, text=True
    )
    assert code.read_text() == CODE
    return result


def test_faults_that_no_test_notices_are_named_and_the_tree_stays_as_it_is(tmp_path):
    result = mutated(tmp_path, True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("gligen_ops/above.py:7") == 2  # the sum and its number
    assert "above.py:3" not in result.stdout
    assert "-    return x + 1" in result.stdout
    assert "noticed: 50%" in result.stdout


def test_tests_that_fail_anyway_are_told_of(tmp_path):
    result = mutated(tmp_path, False)
    assert result.returncode != 0 and "without a fault" in result.stderr
