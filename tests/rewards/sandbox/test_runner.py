"""Programs with tests in sandboxes: outcomes in order, limits, and the folder that is gone."""

import tempfile

import pytest

from jaxtrain.rewards.sandbox import confine, runner
from jaxtrain.rewards.sandbox.runner import Job, Limits

RIGHT = "def f(x):\n    return x + 1\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of the folders, which is empty afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_outcomes_are_in_order():
    jobs = [
        Job(RIGHT, ("assert f(1) == 2", "assert f(2) == 2")),
        Job(RIGHT, ("assert f(1) == 2",)),
        Job("    return x + 1\n", ("assert f(1) == 2",), entry_points=("f",), prompt="def f(x):\n"),
        Job("import os\nos.abort()", ("assert f(1) == 2",)),
        Job(
            "from __future__ import annotations\nimport dataclasses, enum, pickle, tempfile\n@dataclasses.dataclass\n"
            "class P:\n    x: int = 1\nclass E(enum.Enum):\n    A = 1\ndef f(x):\n    tempfile.mkdtemp()\n"
            "    return pickle.loads(pickle.dumps(P(x))).x + E.A.value",
            ("assert f(1) == 2",),
        ),
        Job("import numpy as np\ndef f(x):\n    return np.arange(3).sum() + x", ("assert f(1) == 4",)),
        Job("def f(x):\n    open('a', 'w').write('b')\n    return open('a').read()", ("assert f(1) == 'b'",)),
        Job(
            "import threading\ndef f(x):\n    out = []\n    t = threading.Thread(target=out.append, args=(x,))\n"
            "    t.start()\n    t.join()\n    return out",
            ("assert f(1) == [1]",),
        ),
    ]
    results = runner.run_all(jobs, Limits(seconds=60))
    assert [(one.passed, one.total, one.crashed) for one in results] == [
        (1, 2, False), (1, 1, False), (1, 1, False), (0, 1, True), (1, 1, False), (1, 1, False), (1, 1, False),
        (1, 1, False),
    ]  # fmt: skip
    assert all(not one.fault and not one.unsupported for one in results)
    assert runner.run_all([]) == []


def test_tests_of_a_record_that_print_or_end_are_not_the_outcome():
    noisy = Job(RIGHT, ("print('x' * 10**6)\nassert f(1) == 2", "import os\nos._exit(0)"))
    result = runner.run(noisy, Limits(seconds=60))
    assert result.passed == 0 and result.fault == "failed" and "ended without" in result.detail


def test_a_setup_that_raises_says_so():
    result = runner.run(Job(RIGHT, ("assert f(1) == 2",), ("import nowhere_at_all",)), Limits(seconds=60))
    assert result.fault == "failed" and result.detail.startswith(
        "before the tests: ModuleNotFoundError: No module"
    )


def test_a_sandbox_that_cannot_be_set_up_says_so(monkeypatch):
    program = runner._program
    monkeypatch.setattr(
        runner, "_program", lambda *arguments: {**program(*arguments), "limits": {"seconds": "x"}}
    )
    result = runner.run(Job(RIGHT, ("assert f(1) == 2",)), Limits(seconds=60))
    assert result.fault == "failed" and "cannot be set up: TypeError" in result.detail


def test_a_machine_without_room_for_a_process_says_so(monkeypatch):
    monkeypatch.setattr(runner.sys, "executable", "/nowhere/python")
    result = runner.run(Job(RIGHT, ("assert f(1) == 2",)), Limits(seconds=60))
    assert (result.passed, result.total, result.fault) == (0, 1, "failed")
    assert result.detail.startswith("no sandbox can start: ") and "/nowhere/python" in result.detail


def test_what_is_not_set_is_in_the_outcome(monkeypatch):
    result = runner.run(Job(RIGHT, ("assert f(1) == 2",)), Limits(seconds=60), (confine.LANDLOCK,))
    assert result.passed == 1
    one, other = result._replace(not_set=("a", "b")), result._replace(not_set=("b", "c"))
    assert runner.not_set([one, other]) == ["a", "b", "c"]


def test_a_folder_that_cannot_be_removed_is_named(capsys):
    runner._remove("/nowhere/at/all")
    assert "the folder of a sandbox is left behind: /nowhere/at/all" in capsys.readouterr().err
