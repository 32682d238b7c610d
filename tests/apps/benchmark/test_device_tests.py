import ast
import subprocess
from pathlib import Path

import pytest

from jaxtrain.apps.benchmark import device_tests
from jaxtrain.apps.benchmark.process import LeftOut
from jaxtrain.apps.benchmark.sizes import TINY

ROOT = Path(__file__).parents[3]
LINES = """\
tests/ops/test_x.py::test_a PASSED                       [ 10%]
tests/ops/test_x.py::test_b[1, 2] FAILED                 [ 20%]
tests/ops/test_x.py::test_c SKIPPED (no)                 [ 30%]
tests/ops/test_x.py::test_d ERROR                        [ 40%]
================ FAILURES ================
why
"""


def test_what_pytest_says():
    assert device_tests.outcomes(LINES.splitlines()) == {
        "passed": 1,
        "skipped": 1,
        "failed": ["tests/ops/test_x.py::test_b[1, 2]", "tests/ops/test_x.py::test_d"],
        "good": False,
        "failures": ["================ FAILURES ================", "why"],
    }
    assert device_tests.outcomes(LINES.splitlines()[:1]) == {
        "passed": 1,
        "skipped": 0,
        "failed": [],
        "good": True,
    }
    assert not device_tests.outcomes([])["good"]


def stand_in(monkeypatch, script):
    """Lets a shell script stand in for pytest; returns what the part reports, and left out."""
    start, reported = subprocess.Popen, []
    monkeypatch.setattr(
        device_tests.subprocess, "Popen", lambda command, **how: start(["bash", "-c", script], **how)
    )
    return device_tests.tests(TINY, 3.0, lambda *each: reported.append(each)), reported


def test_pytest_is_ended_in_time_and_what_it_did_is_there(monkeypatch):
    script = "echo 'collected 3 items'; echo 'tests/a.py::test_a PASSED [ 33%]'; exec sleep 60"
    left_out, reported = stand_in(monkeypatch, script)
    assert left_out == ["2 of 3 tests"]
    assert reported[-1] == ("outcomes", {"passed": 1, "skipped": 0, "failed": [], "good": True})


def test_without_pytest_the_part_is_left_out(monkeypatch):
    with pytest.raises(LeftOut, match="No module named pytest"):
        stand_in(monkeypatch, "echo 'No module named pytest'")


def test_the_tests_are_there():
    for test in device_tests.TESTS:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name.partition("[")[0] in names, test
