"""Launchers of sandboxes: one a thread, a new one where it has ended, and none is left."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxtrain.rewards.sandbox import launcher

# Answers jobs of one letter as a launcher does: e ends well, k ends the launcher, s never ends.
MAIN = """
import os, time
while os.read(0, 1):
    letter = os.read(0, 1)
    if letter == b'k': os._exit(1)
    child = os.fork()
    if child == 0:
        os.setsid()
        if letter == b's': time.sleep(1000)
        os._exit(0)
    os.write(1, b'%08d' % child)
    os.waitpid(child, 0)
    os.write(1, b'%08d' % child)
"""


@pytest.fixture
def launchers(monkeypatch):
    monkeypatch.setattr(launcher, "MAIN", MAIN)
    result = launcher.Launchers()
    yield result
    result.close()
    assert all(process.returncode is not None for process in result.all)


def test_a_thread_has_one_launcher_and_a_new_one_where_it_has_ended(launchers):
    for _ in range(3):
        launchers.launch(b"e", 60)
    assert len(launchers.all) == 1
    with pytest.raises(OSError, match="the launcher of sandboxes has ended: EOFError"):
        launchers.launch(b"k", 60)
    launchers.launch(b"e", 60)
    launchers.local.process.send_signal(signal.SIGKILL)
    launchers.local.process.wait()
    launchers.launch(b"e", 60)
    launchers.restart()
    launchers.launch(b"e", 60)
    assert len(launchers.all) == 4
    with ThreadPoolExecutor(1) as threads:
        threads.submit(launchers.launch, b"e", 60).result()
    assert len(launchers.all) == 5


def test_a_job_that_does_not_end_is_ended(launchers):
    launchers.launch(b"s", 0.2)
    assert launchers.all[0].returncode == -signal.SIGKILL
    launchers.launch(b"e", 60)


def test_the_environment_has_nothing_of_ours(launchers, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "1")
    launchers.launch(b"e", 60)
    pid = launchers.all[0].pid
    if os.path.exists(f"/proc/{pid}/environ"):
        with open(f"/proc/{pid}/environ", "rb") as file:
            assert b"MY_SECRET" not in file.read()
