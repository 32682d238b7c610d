"""The program of a launcher, and the three processes of a sandbox, each confined before it runs anything.

The outer one sets up namespaces, waits, and ends everything when time is over. Its child runs the tests (tester), in a
namespace of processes of its own; and that one's child the program (candidate), in another below it, so that the
program sees no process but itself. The program's process starts before the tests are read.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from jaxtrain.rewards.sandbox import candidate, confine, tester, wire

TIMED_OUT, FAILED = "timed_out", "failed"
VERDICT = 1  # MiB that the outcome and what the tests write may have
_POLL = 0.004  # seconds


def main() -> None:
    """Starts a sandbox for each job that stdin has, one after the other; writes its process before and after it."""
    confine.end_with_parent()
    while os.read(0, 1):
        child = os.fork()
        if child == 0:
            _exiting(_sandbox)
        os.write(1, b"%08d" % child)
        os.waitpid(child, 0)
        os.write(1, b"%08d" % child)


def _sandbox() -> None:
    """One job: reads it, runs it, and ends all of its processes, the last one by itself."""
    os.setsid()
    confine.end_with_parent()
    confine.adopt_orphans()
    job = wire.receive(0)
    results = os.open(f"{job['place']}/outcome", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    tests = os.open(f"{job['place']}/tests", os.O_RDONLY)
    os.unlink(f"{job['place']}/tests")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.umask(0o077)
    try:
        _supervise(job, results, tests, null)
    except Exception as error:
        _write(results, {"fault": FAILED, "detail": _cause(error), "not_set": []})
    os.killpg(0, signal.SIGKILL)  # where there is no list of processes, the group is what can be ended


def _supervise(job: Mapping[str, Any], results: int, tests: int, null: int) -> None:
    """Starts the process of the tests, and ends everything when it or its time ends."""
    limits = confine.Limits(**job["limits"])
    not_set = confine.unshare(job["layers"])
    until = time.monotonic() + limits.seconds
    child = os.fork()
    if child == 0:
        _exiting(_test, job, limits, not_set, results, tests, null)
    status = _wait(child, until)
    _end_children(child)
    if status is None:
        _write(
            results, {"fault": TIMED_OUT, "detail": f"stopped after {limits.seconds:g} s", "not_set": not_set}
        )
    elif status:
        detail = f"the process of the tests ended with status {os.waitstatus_to_exitcode(status)}"
        _write(results, {"fault": FAILED, "detail": detail, "not_set": not_set})


def _exiting(function: Any, *arguments: Any) -> None:
    """Runs a child of fork, which never returns."""
    code = 1
    try:
        function(*arguments)
        code = 0
    finally:
        os._exit(code)


def _test(
    job: Mapping[str, Any],
    limits: confine.Limits,
    not_set: list[str],
    results: int,
    tests: int,
    null: int,
) -> None:
    """The process of the tests; writes the outcome."""
    try:
        outcome = _tested(job, limits, not_set, tests, null)
    except Exception as error:
        outcome = {"fault": FAILED, "detail": _cause(error), "not_set": not_set}
    _write(results, outcome)


def _cause(error: Exception) -> str:
    return f"the sandbox cannot be set up: {type(error).__name__}: {error}"[:300]


def _tested(
    job: Mapping[str, Any], limits: confine.Limits, not_set: list[str], tests: int, null: int
) -> dict[str, Any]:
    """The outcome: starts the program's process, confines this one, reads the tests, runs them."""
    confine.end_with_parent()
    layers, folder = job["layers"], f"{job['place']}/work"
    confine.mount_folder(folder, limits, layers, not_set)
    os.chdir(folder)
    confine.unshare_processes(layers)
    requests, replies = os.pipe(), os.pipe()
    if os.fork() == 0:
        _exiting(_run_program, job, limits, requests[0], replies[1], null)
    os.close(requests[0])
    os.close(replies[1])
    confined = _confine(job, limits, VERDICT)
    program = tester.Program(requests[1], replies[0])
    lines = program.receive()["not_set"]  # the first message is ours: no program runs yet
    try:
        outcome = tester.run(**wire.receive(tests), program=program)
    except Exception as error:
        outcome = {"fault": FAILED, "detail": f"before the tests: {type(error).__name__}: {error}"[:300]}
    return {**outcome, "not_set": list(dict.fromkeys([*not_set, *confined, *lines]))}


def _run_program(
    job: Mapping[str, Any], limits: confine.Limits, requests: int, replies: int, null: int
) -> None:
    """The process of the program."""
    confine.end_with_parent()
    os.dup2(null, 0)
    requests, replies = os.dup2(requests, 3 + limits.open_files), os.dup2(replies, 4 + limits.open_files)
    os.closerange(3, requests)
    os.closerange(replies + 1, 1 << 16)
    requests, replies = os.dup2(requests, 3), os.dup2(replies, 4)
    os.closerange(5, 1 << 16)
    os.environ.clear()
    sys.path += job["packages"]
    lines = _confine(job, limits, limits.file)
    wire.send(replies, {"not_set": lines})
    candidate.serve(job["program"], requests, replies)


def _confine(job: Mapping[str, Any], limits: confine.Limits, file: int) -> list[str]:
    """Confines this process for good; lines on what cannot be set."""
    readable = [*job["packages"], *job["readable"]]
    lines = confine.limit(limits, file) + confine.limit_threads(limits)
    lines += confine.restrict_files(f"{job['place']}/work", readable, job["layers"])
    lines += confine.drop_privileges()
    return lines + confine.filter_calls(job["layers"])


def _wait(child: int, until: float) -> int | None:
    """The child's status; None where it has not ended in time, and is killed."""
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(_POLL)
    return None


def _end_children(child: int) -> None:
    """Kills the child, and every process below it, which this one has adopted where they left their parents."""
    with contextlib.suppress(ProcessLookupError):  # it has ended, and been waited for
        os.kill(child, signal.SIGKILL)
    while children := _children():
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def _children() -> list[int]:
    """The processes whose parent this one is, dead ones that wait for it included."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it has ended meanwhile
            if parent == os.getpid():
                found.append(int(name))
    return found


def _write(results: int, outcome: Mapping[str, Any]) -> None:
    os.write(results, json.dumps(outcome).encode() + b"\n")
