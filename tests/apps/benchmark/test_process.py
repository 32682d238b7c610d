import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtrain.apps.benchmark import process
from jaxtrain.apps.benchmark.process import PartEnd, PartProcess
from jaxtrain.apps.benchmark.sizes import TINY

ROOT = Path(__file__).parents[3]


def messages(how, seconds=20.0):
    part = PartProcess("tests.apps.benchmark.jobs", "work", {"JAXTRAIN_JOB": "x"})
    try:
        return list(part.run((TINY, how), seconds)), part
    finally:
        part.close()


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("", PartEnd("complete")),
        ("shortened", PartEnd("shortened", "the rest")),
        ("left out", PartEnd("left out", "no torch")),
        ("config", PartEnd("failed", "--x: wrong")),
        ("failure", PartEnd("failed", "Failure: first | second")),
    ],
)
def test_a_part_reports_and_ends(how, end, capfd):
    (first, last), _ = messages(how)
    assert first == ("seconds", {"given": 20.0, "env": "x", "tiny": True}) and last == end
    assert ("Traceback" in capfd.readouterr().err) == (how == "failure")


def test_a_crash_is_an_end_with_the_last_words():
    (_, last), _ = messages("exit")
    assert last.status == "failed" and "status 7" in last.note and "last words" in last.note


def test_a_part_is_ended_after_its_time(monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.1)
    begun = time.monotonic()
    (first, last), part = messages("sleep", 1.0)
    assert first[0] == "seconds" and last == PartEnd("stopped", "it was not done after 1 s")
    assert time.monotonic() - begun < 20
    with pytest.raises(ProcessLookupError):
        os.killpg(part._process.pid, 0)


def test_a_process_that_nobody_needs_ends():
    part = PartProcess("tests.apps.benchmark.jobs", "work", {})
    part.close()
    assert not part._process.is_alive()


SCRIPT = """
from jaxtrain.apps.benchmark.process import PartProcess
from jaxtrain.apps.benchmark.sizes import TINY
if __name__ == "__main__":
    part = PartProcess("tests.apps.benchmark.jobs", "work", {})
    print(part._process.pid, flush=True)
    for message in part.run((TINY, "sleep"), 50.0):
        print(message, flush=True)
"""


def test_a_part_ends_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=env, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert "seconds" in parent.stdout.readline()  # it is at work
        os.kill(pid, 0)
        parent.kill()
        parent.wait()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if (
            "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
        ):  # ended, and nobody has asked for it
            return
        time.sleep(0.1)
    pytest.fail("it lives on")


def test_an_error_is_one_short_line():
    assert process.first_lines(ValueError("a\nb\nc\nd")) == "ValueError: a | b | c"
    assert len(process.first_lines(ValueError("x" * 1000))) == 400
