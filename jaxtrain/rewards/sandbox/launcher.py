"""Processes that start sandboxes: each has imported what a sandbox needs, and forks for every job.

A launcher belongs to one thread, with which it ends; the sandbox that it may run ends with it. What runs in a sandbox
never runs in the launcher.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from jaxtrain.files import processes

MAIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); from jaxtrain.rewards.sandbox import process; sys.path.pop(0); "
    "sys.dont_write_bytecode = True; process.main()"
)
# The seed of hashes: a program that walks through a set does the same each time.
ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
PID = 8  # digits of the process of a job, which a launcher writes before the job, and then again when it has ended
START = 60.0  # seconds for a launcher to start


class Launchers:
    """A launcher for each thread that asks for one; `close` ends them."""

    def __init__(self):
        self.local = threading.local()
        self.all: list[subprocess.Popen] = []

    def launch(self, job: bytes, seconds: float) -> None:
        """Runs a job, for `seconds` at most, after which all of its processes are ended. Raises OSError."""
        process = getattr(self.local, "process", None)
        if process is None or process.poll() is not None:
            process = self.local.process = self._start()
        try:
            process.stdin.write(b"j" + job)
            process.stdin.flush()
            pid = _answer(process, START)
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            processes.end(process)
            raise OSError(f"the launcher of sandboxes has ended: {error!r}") from error
        try:
            _answer(process, seconds)
        except (TimeoutError, EOFError):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            processes.end(process)
        except BaseException:
            processes.end(process)
            raise

    def restart(self) -> None:
        """Ends this thread's launcher, where a job may not have read all that was meant for it."""
        if process := getattr(self.local, "process", None):
            processes.end(process)

    def _start(self) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-c", MAIN, str(Path(__file__).parents[3])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        self.all.append(process)
        return process

    def close(self) -> None:
        """Ends the launchers."""
        for process in self.all:
            processes.end(process)


def _answer(process: subprocess.Popen, seconds: float) -> int:
    """The number that a launcher writes next. Raises TimeoutError, EOFError."""
    until, text = time.monotonic() + seconds, b""
    while len(text) < PID:
        text += processes.read_some(process, PID - len(text), until)
    return int(text)
