"""How two processes are judged, without starting any."""

import signal
from pathlib import Path

import pytest

from jaxtrain.apps.soak import peers
from jaxtrain.apps.soak.warm import Ended

KILLED, ABORTED, DONE = Ended(137, 1.0, ""), Ended(134, 1.0, "lost its peer"), Ended(0, 1.0, "")


class FakeAttempt:
    """Two processes that end as `runs` says, and a comparison."""

    patience = 5.0

    def __init__(self, folder, runs, difference=""):
        import random

        self.rng, self.difference, self.waits = random.Random(0), difference, []
        self.runs = [dict(run) for run in runs]
        self.place = type("Place", (), {"log": folder / "log.txt", "processes": self})
        self.reference = type("Reference", (), {"seconds": 1.0})

    def reset(self, *, cold):
        assert cold is False

    def wait(self, pid, log: Path, seconds, injected):
        self.waits.append((pid, seconds, [number for _, number in injected.signals]))
        return self.runs[0].pop(pid)

    def compare(self, tolerance):
        assert tolerance == 1e-5
        return self.difference


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    starts = []

    def start(attempt):
        starts.append(1)
        if len(starts) > 1:
            attempt.runs.pop(0)
        return [0, 1]

    monkeypatch.setattr(peers, "_start", start)


@pytest.mark.parametrize(
    ("first", "second", "difference", "why"),
    [
        ({0: ABORTED, 1: KILLED}, {0: DONE, 1: DONE}, "", ""),
        ({0: ABORTED, 1: KILLED}, {0: DONE, 1: DONE}, "w differs", "w differs"),
        ({0: ABORTED, 1: KILLED}, {0: DONE, 1: ABORTED}, "", "process 1: exit status 134"),
        ({0: DONE, 1: ABORTED}, {0: DONE, 1: DONE}, "", "before the kill"),
    ],
)
def test_a_dead_process_and_what_comes_after(tmp_path, first, second, difference, why):
    attempt = FakeAttempt(tmp_path, [first, second], difference)
    _, found = peers.one_dies(attempt)
    assert found.startswith(why) and bool(found) == bool(why)
    killed, other = attempt.waits[:2]
    assert killed[0] == 1 and killed[2] == [signal.SIGKILL] and not other[2]
    assert other[1] == (peers.NOTICE if first[1].status else 3 * attempt.patience)


@pytest.mark.parametrize(("ended", "held"), [({0: DONE, 1: DONE}, True), ({0: ABORTED, 1: DONE}, False)])
def test_a_frozen_process_changes_nothing(tmp_path, ended, held):
    attempt = FakeAttempt(tmp_path, [ended])
    _, why = peers.one_freezes(attempt)
    assert (why == "") == held
    assert signal.SIGSTOP in attempt.waits[0][2] and "process" in (tmp_path / "log.txt").read_text()
