import ast
from pathlib import Path

from jaxtrain.apps.benchmark import device_tests

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


def test_the_tests_are_there():
    for test in device_tests.TESTS:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name.partition("[")[0] in names, test
