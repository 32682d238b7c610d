"""Checks of texts in processes of their own, with a time limit that no expression can evade.

A check runs code that is not ours on text that a policy wrote: a comparison by sympy, a regular expression. Either can
take forever inside one call that no signal interrupts, and a timeout by signals works in the main thread alone. So a
bounded number of processes (checker_worker) check one request after the other; one that is late is killed, and the next
request gets a new one.
"""

import atexit
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from jaxtrain.files import processes, progress
from jaxtrain.rewards.verifier import FAILED, TIMED_OUT

MOST = 8  # processes
GRACE = 1.0  # seconds beyond a check's own limit after which its process is killed
START = 120.0  # seconds for a process to import what it needs
_PROGRAM = "from jaxtrain.rewards import checker_worker; checker_worker.main()"


class CheckResult(NamedTuple):
    """What a check returned; or why it did not: TIMED_OUT or FAILED."""

    value: Any = None
    fault: str = ""
    detail: str = ""


class _Process:
    """A process that checks requests, one at a time."""

    def __init__(self, module: str):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
        self.buffer = b""

    def answer(self, seconds: float) -> bytes:
        """The next line that it writes. Raises TimeoutError after `seconds`, EOFError where it has ended."""
        until = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            self.buffer += processes.read_some(self.popen, 1 << 16, until)
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line


def run(module: str, requests: Sequence[Mapping[str, Any]], seconds: float) -> list[CheckResult]:
    """The results of checks, in order: `module` has a function check(**request), which gets `seconds` for each.

    It may have a function prepare(), which a process calls once.
    """
    requests = list(requests)
    if not requests:
        return []
    size = min(MOST, os.cpu_count() or 1, len(requests))
    results = []
    with ThreadPoolExecutor(size) as threads:
        for result in threads.map(functools.partial(_checked, module, seconds), requests):
            results.append(result)
            progress.report(f"checks of completions, {len(results)} of {len(requests)}")
    return results


def _checked(module: str, seconds: float, request: Mapping[str, Any]) -> CheckResult:
    line = json.dumps({"seconds": seconds, "request": request}).encode() + b"\n"
    while True:
        process, is_new = _take(module)
        try:
            process.popen.stdin.write(line)
            process.popen.stdin.flush()
            result = CheckResult(**json.loads(process.answer(seconds + GRACE)))
        except TimeoutError:
            processes.end(process.popen)
            return CheckResult(fault=TIMED_OUT, detail=f"stopped after {seconds + GRACE:g} s")
        except (EOFError, BrokenPipeError):
            processes.end(process.popen)
            if process.popen.returncode == -signal.SIGPROF:
                return CheckResult(fault=TIMED_OUT, detail=f"stopped after {seconds + GRACE:g} s")
            if is_new:  # else it may have ended while it waited
                status = process.popen.returncode
                return CheckResult(fault=FAILED, detail=f"its process ended with exit status {status}")
            continue
        _idle(module).put(process)
        return result


def _take(module: str) -> tuple[_Process, bool]:
    """(a process, whether it is a new one). Raises RuntimeError where none can start."""
    try:
        return _idle(module).get_nowait(), False
    except queue.Empty:
        process = _Process(module)
    try:
        process.answer(START)
    except (TimeoutError, EOFError) as error:
        processes.end(process.popen)
        raise RuntimeError(f"a process for {module} did not start: its error is above") from error
    return process, True


_IDLE: dict[str, "queue.SimpleQueue[_Process]"] = {}  # by module: never more than ran at once


def _idle(module: str) -> "queue.SimpleQueue[_Process]":
    """The processes that wait for a request."""
    return _IDLE.setdefault(module, queue.SimpleQueue())


@atexit.register
def close() -> None:
    """Ends the processes that wait."""
    for waiting in _IDLE.values():
        while not waiting.empty():
            processes.end(waiting.get_nowait().popen)


def _environment() -> dict[str, str]:
    """What a process needs to import the same packages, and nothing secret."""
    names = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
    return {name: os.environ[name] for name in names if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
