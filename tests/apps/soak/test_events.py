"""Faults at events, each in a Python of its own: a hook cannot be taken back."""

import subprocess
import sys

import pytest

from jaxtrain.apps.soak import events
from tests.runs import ROOT

WORK = """
import os, sqlite3, sys, time
from pathlib import Path
from jaxtrain.apps.soak import events
here = Path(sys.argv[1]) / "here"
{prepare}
for name in "abc":
    (here / name).mkdir()
    (here / name / "x").write_text("1")
    (here / name / "x").read_text()
    os.replace(here / name / "x", here / name / "y")
(here / "a" / "y").unlink()
sqlite3.connect(here / "db").close()
(here.parent / "outside").write_text("1")
print(time.time(), time.time_ns())
"""


def work(folder, prepare):
    (folder / "here").mkdir()
    return subprocess.run(
        [sys.executable, "-c", WORK.format(prepare=prepare), str(folder)], cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip


def test_events_that_change_files_are_counted_by_kind(tmp_path):
    done = work(tmp_path, "events.record(here, here.parent / 'counted')()")
    assert done.returncode == 0, done.stderr
    assert events.read(tmp_path / "counted") == {
        "open": 3, "os.rename": 3, "os.remove": 1, "os.mkdir": 3, "sqlite3.connect": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "left"), [("open", ["a", "a/y", "b"]), ("os.rename", ["a", "a/y", "b", "b/x"])]
)
def test_a_kill_at_an_event_comes_before_it(tmp_path, kind, left):
    done = work(tmp_path, f"events.at(here, events.At('{kind}', 2), events.kill)()")
    here = tmp_path / "here"
    assert done.returncode == -9
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*")) == left


def test_from_an_event_on_there_is_no_space(tmp_path):
    done = work(tmp_path, "events.at(here, events.At('os.mkdir', 2), events.no_space, onward=True)()")
    assert (
        done.returncode == 1
        and "No space left on device" in done.stderr
        and f"{tmp_path}/here/b" in done.stderr
    )
    assert not (tmp_path / "here" / "b").exists()


def test_the_clock_jumps_once_and_stays(tmp_path):
    done = work(
        tmp_path, "true = time.time()\nevents.at(here, events.At('open', 1), events.clock_jump(4e8))()"
    )
    seconds, nanoseconds = done.stdout.split()
    assert float(seconds) * 1e9 == pytest.approx(float(nanoseconds))
    later = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"], capture_output=True, text=True
    )
    assert 3.9e8 < float(seconds) - float(later.stdout) < 4.1e8
