"""Programs that try to leave the sandbox or to fool the tests: none passes, none is left, nothing outside changes."""

import os
import signal
import socket
import sys
import threading
import uuid
from pathlib import Path

import pytest

from jaxtrain.rewards.sandbox import confine, launcher, runner
from jaxtrain.rewards.sandbox.runner import Job, Limits
from tests.rewards.sandbox import escapes
from tests.rewards.sandbox.escapes import ESCAPES

LIMITS = Limits(seconds=0.5, memory=512, disk=20, file=8)
TEST = ("assert f() == 42",)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a sandbox has limits alone elsewhere")
SLOW = {
    "output without end", "a loop", "a loop where it is run", "a loop in C", "sleep", "signals that it ignores",
    "an answer that never comes",
}  # fmt: skip


def processes(marker):
    """Processes with the marker in their command line."""
    seen = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                seen.append(path.parent.name)
        except OSError:
            continue
    return seen


@pytest.fixture(scope="module", autouse=True)
def every_layer():
    """A kernel that lacks one of them has another outcome, and says so."""
    if missing := [line for line in runner.run(Job("", ())).not_set if "threads" not in line]:
        pytest.skip("; ".join(missing))


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """What programs try to reach; afterwards it must be as it was."""
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "hunter2")
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("the secret")
    before = {
        path.name: (path.read_text(), path.stat().st_mode, path.stat().st_mtime) for path in folder.iterdir()
    }
    marker, signals, received = f"marker-{uuid.uuid4()}", [], []
    monkeypatch.setattr(launcher, "MAIN", f"{launcher.MAIN} # {marker}")
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: signals.append(number))
    sockets = [
        socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    ]
    sockets[0].bind(("127.0.0.1", 0))
    port = sockets[0].getsockname()[1]
    sockets[1].bind(("127.0.0.1", port))
    sockets[0].listen()
    sockets.append(socket.socket(socket.AF_UNIX))
    sockets[2].bind(f"\0{marker}")
    sockets[2].listen()
    shared = Path("/dev/shm/jaxtrain-escape")
    yield {"parent": os.getpid(), "folder": folder, "port": port, "name": marker, "home": Path.home(),
           "source": runner.__file__}  # fmt: skip
    signal.signal(signal.SIGUSR1, previous)
    for each in sockets:
        each.setblocking(False)
        with pytest.raises(BlockingIOError):
            received.append(each.recv(1) if each.type == socket.SOCK_DGRAM else each.accept())
        each.close()
    after = {
        path.name: (path.read_text(), path.stat().st_mode, path.stat().st_mtime) for path in folder.iterdir()
    }
    assert (after, signals, received) == (before, [], []) and not shared.exists()
    assert processes(marker) == []


def run(names, outside, layers=confine.LAYERS):
    """The outcomes of programs, some at a time; no folder of theirs is left."""
    runner_temp = outside["folder"].parent / "temporary"
    runner_temp.mkdir()
    codes = escapes.programs(**outside)
    jobs = {name: Job(codes[name], TEST) for name in names}
    previous, runner.tempfile.tempdir = runner.tempfile.tempdir, str(runner_temp)
    try:
        results = dict(zip(jobs, runner.run_all(list(jobs.values()), LIMITS, layers, at_once=6), strict=True))
    finally:
        runner.tempfile.tempdir = previous
    assert list(runner_temp.iterdir()) == []
    return results


def test_no_program_passes_leaves_or_changes_anything(outside):
    results = run(ESCAPES, outside)
    assert {name: result for name, result in results.items() if result.passed} == {}
    assert {name for name, result in results.items() if result.fault == "timed_out"} >= SLOW
    assert {name: result.detail for name, result in results.items() if result.fault == "failed"} == {}
    assert threading.active_count() < 50


# What passes without a layer; and none of it is left when the sandbox ends.
WITHOUT = {
    (confine.LANDLOCK, confine.SECCOMP): set(),
    (confine.NAMESPACES, confine.SECCOMP): {"the list of processes", "the parent's files"},
    (confine.NAMESPACES, confine.LANDLOCK): {"a daemon", "a server"},
    (): {"a daemon", "a server", "the list of processes", "the parent's files"},
}
TRIED = ("a daemon", "a server", "the list of processes", "the parent's files", "signals that it ignores",
         "memory at once", "an __eq__ of its own", "exit status 0", "the test in memory")  # fmt: skip
WITH_A_LAYER = ("a file outside", "a socket")


@pytest.mark.parametrize("layers", WITHOUT)
def test_each_layer_holds_without_the_others(outside, layers):
    results = run((*TRIED, *(WITH_A_LAYER if layers else ())), outside, layers)
    assert {name for name, result in results.items() if result.passed} <= WITHOUT[layers]
    assert results["signals that it ignores"].fault == "timed_out"
