"""The program of a process that checks texts for checker_processes: a line of JSON for each request and each result.

A check is stopped in two ways: by a signal, after which the process goes on with the next request, and where no signal
interrupts it, by the kernel, or by whoever started the process.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from jaxtrain.rewards.sandbox import seccomp

MEMORY = 4 << 30  # bytes of address space
GRACE = 1.0  # seconds of CPU time after its limit, after which the kernel ends a process that no signal interrupts


class CheckTimeout(BaseException):
    """A check took too long. Not an Exception, which a package that checks might catch."""


def main() -> None:
    """Answers requests until there is none."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that is printed is taken for a result
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's
    signal.signal(signal.SIGALRM, _late)
    module = importlib.import_module(sys.argv[1])
    if hasattr(module, "prepare"):  # so that no check has to wait for imports
        module.prepare()
    seccomp.install()  # a package that reads what a policy wrote needs no program and no network
    _write(results, {})
    for line in sys.stdin.buffer:
        _write(results, answer(module.check, **json.loads(line)))


def answer(check: Callable[..., Any], seconds: float, request: dict[str, Any]) -> dict[str, Any]:
    """The result of a check as checker_processes.CheckResult has it."""
    signal.setitimer(signal.ITIMER_PROF, seconds + GRACE)  # SIGPROF ends a process that does not handle it
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        value = check(**request)
        _stop_timers()
        return {"value": value}
    except CheckTimeout:
        return {"fault": "timed_out", "detail": f"stopped after {seconds:g} s"}
    except Exception as error:
        return {"fault": "failed", "detail": f"{type(error).__name__}: {error}"[:300]}
    finally:
        _stop_timers()


def _stop_timers() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)


def _late(signum: int, frame: object) -> None:
    raise CheckTimeout


def _write(results: BinaryIO, value: dict[str, Any]) -> None:
    results.write(json.dumps(value).encode() + b"\n")
    results.flush()
