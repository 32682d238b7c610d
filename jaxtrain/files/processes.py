"""Child processes that end with this one: where it is stopped or fails they are stopped, waited for, and ended."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from jaxtrain.signals import PARENT


class ChildProcesses:
    """Runs commands in threads, within a context: where that raises, those under way get SIGTERM, and SIGKILL
    `seconds` later; no further one starts.
    """

    def __init__(self, seconds: float):
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
                    env={**os.environ, PARENT: str(theirs)},
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
