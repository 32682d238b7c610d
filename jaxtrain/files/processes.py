"""Child processes: those that end with this one, and those that answer through pipes, within a time."""

import contextlib
import os
import select
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from jaxtrain.signals import PARENT, WITHIN

_place = (0, 1)


def take_place(index: int, count: int) -> None:
    """Says which process of a run this is, and how many there are."""
    global _place
    _place = (index, count)


def place() -> tuple[int, int]:
    """(number of this process in its run, number of processes of the run)."""
    return _place


def read_some(process: subprocess.Popen, most: int, until: float) -> bytes:
    """What a process writes next to its pipe, at most `most` bytes. Raises TimeoutError at `until` (time.monotonic),
    EOFError where it writes no more.
    """
    stream = process.stdout.fileno()
    if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
        raise TimeoutError
    if not (more := os.read(stream, most)):
        raise EOFError
    return more


def end(process: subprocess.Popen) -> None:
    """Kills a process that reads and writes pipes, and waits for it."""
    process.kill()
    with contextlib.suppress(BrokenPipeError):  # a request that it will not read
        process.stdin.close()
    process.stdout.close()
    process.wait()


SAVED_WITHIN = 60.0  # seconds in which a run that is stopped saves and ends


class ChildProcesses:
    """Runs commands in threads, within a context: where that raises, those under way get SIGTERM, and SIGKILL
    `seconds` later; no further one starts.
    """

    def __init__(self, seconds: float = SAVED_WITHIN):
        self._seconds, self._lock = seconds, threading.Lock()
        self._running: list[subprocess.Popen] = []
        self._stopped = False

    def call(self, command: Sequence[str], **options: Any) -> int:
        """The exit status of a command; 143 of one that did not start since all are stopped, or that was stopped."""
        with self._lock:
            if self._stopped:
                return 143
            theirs, ours = os.pipe()
            # A session of its own: the terminal's Ctrl-C would reach it beside our SIGTERM, and a second signal kills.
            try:
                process = subprocess.Popen(
                    command,
                    start_new_session=True,
                    pass_fds=(theirs,),
                    env={**os.environ, PARENT: str(theirs), WITHIN: str(self._seconds)},
                    **options,
                )
            finally:
                os.close(theirs)
            self._running.append(process)
        status = process.wait()
        os.close(ours)
        with self._lock:
            self._running.remove(process)
            return 143 if self._stopped else status

    def __enter__(self) -> "ChildProcesses":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            return
        with self._lock:
            self._stopped, running = True, list(self._running)
        for process in running:
            process.terminate()
        until = time.monotonic() + self._seconds
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
