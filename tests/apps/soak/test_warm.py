"""Forks end as a process of the command would, and none survives."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import ROOT

HEAD = """
import os, signal, sys, threading, time
from pathlib import Path
from jaxtrain.apps.soak.warm import Injected, Processes
folder = Path(sys.argv[1])
log = folder / "log"
"""


def script(folder, body):
    """Runs a script in a Python without threads, from which forks are safe; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + body, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_fork_has_the_status_and_output_of_its_function(tmp_path):
    said = script(tmp_path, """
def late():
    threading.Timer(0.3, lambda: print("from a thread")).start()
with Processes() as processes:
    for function in (lambda: None, lambda: sys.exit(3), lambda: 1 / 0, lambda: os.kill(os.getpid(), 9), late):
        pid = processes.fork(function, log)
        print(processes.wait(pid, log, 60).status)
    pid = processes.fork(lambda: time.sleep(99), log)
    print(processes.wait(pid, log, 0.2).status)
    frozen = processes.fork(lambda: os.kill(os.getpid(), signal.SIGSTOP), log)
    print(processes.wait(frozen, log, 60).status)
    asked = processes.fork(lambda: time.sleep(99), log)
    print(processes.wait(asked, log, 60, Injected(signals=[(0.1, signal.SIGTERM)])).status)
""")  # fmt: skip
    assert said.split() == ["0", "3", "1", "137", "0", "None", "0", "143"]
    text = (tmp_path / "log").read_text()
    assert "ZeroDivisionError" in text and "from a thread" in text


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks at processes through /proc")
def test_no_process_survives_a_soak_that_is_killed(tmp_path):
    body = """
def busy():
    if os.fork():
        (folder / "parent").write_text(str(os.getpid()))
    else:
        (folder / "child").write_text(str(os.getpid()))
    time.sleep(99)
with Processes() as processes:
    pid = processes.fork(busy, log)
    print("started", flush=True)
    processes.wait(pid, log, 99)
"""
    command = [sys.executable, "-c", HEAD + body, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as soak:
        soak.stdout.readline()
        names = [tmp_path / "parent", tmp_path / "child"]
        eventually(lambda: all(name.exists() and name.read_text() for name in names))
        pids = [int(name.read_text()) for name in names]
        assert all(map(alive, pids))
        soak.send_signal(signal.SIGKILL)
        soak.wait(30)
    eventually(lambda: not any(map(alive, pids)))


def eventually(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_first_signal_asks_and_the_second_interrupts(tmp_path):
    said = script(tmp_path, """
from jaxtrain.apps.soak import warm
with warm.interruptible() as stopping:
    print(stopping())
    os.kill(os.getpid(), signal.SIGINT)
    print(stopping())
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(9)
    except KeyboardInterrupt:
        print("interrupted")
""")  # fmt: skip
    assert said.split() == ["False", "True", "interrupted"]
