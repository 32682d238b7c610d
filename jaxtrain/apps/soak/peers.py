"""A run of two processes of which one dies or freezes."""

import signal
import socket
from collections.abc import Sequence

from jaxtrain.apps.soak.attempt import TRACEBACK, Attempt, described
from jaxtrain.apps.soak.faults import Fault
from jaxtrain.apps.soak.observe import TOLERANCE
from jaxtrain.apps.soak.warm import Ended, Injected

NOTICE = 10.0  # seconds after which the peer of a dead process is killed, as launch/local.sh does
START = 8.0  # seconds of Python and jax before the work


def _start(attempt: Attempt) -> list[int]:
    """Two processes, each with a Python of its own, a device and a log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    pids = []
    for index in range(2):
        environment = {
            "JAXTRAIN_COORDINATOR": address, "JAX_COORDINATOR_BIND_ADDRESS": address,
            "JAXTRAIN_NUM_PROCESSES": "2", "JAXTRAIN_PROCESS_ID": str(index),
        }  # fmt: skip
        injected = Injected(environment=environment, afresh=True)
        log = attempt.place.log.with_suffix(f".{index}")
        log.unlink(missing_ok=True)
        pids.append(attempt.place.start(attempt.target, injected, log))
    return pids


def _wait(
    attempt: Attempt, pids: Sequence[int], first: int, signals: Sequence[tuple[float, int]]
) -> list[Ended]:
    """How both ended; `first` gets the signals. The other is killed some seconds after one that failed."""
    place, ended = attempt.place, {}
    for index in (first, 1 - first):
        failed = any(one.status for one in ended.values())
        injected = Injected(signals=signals if index == first else ())
        seconds = NOTICE if failed else 3 * attempt.patience
        log = place.log.with_suffix(f".{index}")
        ended[index] = place.processes.wait(pids[index], log, seconds, injected)
    with place.log.open("a", encoding="utf-8") as log:
        log.writelines(f"process {index}: {one.output}\n" for index, one in sorted(ended.items()))
    return [ended[0], ended[1]]


def _both(attempt: Attempt, ended: Sequence[Ended]) -> str:
    for index, one in enumerate(ended):
        if one.status != 0:
            return f"process {index}: {described(one)}"
    return attempt.compare(TOLERANCE)


def one_dies(attempt: Attempt) -> tuple[str, str]:
    """kill -9 of one of two processes; the other ends or is ended, and both start again."""
    attempt.reset(cold=False)
    index, moment = (
        attempt.rng.randrange(2),
        attempt.rng.uniform(START, START + 3 * attempt.reference.seconds),
    )
    what = f"process {index} after {moment:.2f} s"
    first = _wait(attempt, _start(attempt), index, [(moment, signal.SIGKILL)])
    if first[index].status not in (0, 128 + signal.SIGKILL):
        return what, f"before the kill: {described(first[index])}"
    return what, _both(attempt, _wait(attempt, _start(attempt), 0, ()))


def one_freezes(attempt: Attempt) -> tuple[str, str]:
    """SIGSTOP of one of two processes, SIGCONT later: the other waits, and nothing changes."""
    attempt.reset(cold=False)
    index, moment = (
        attempt.rng.randrange(2),
        attempt.rng.uniform(START, START + 2 * attempt.reference.seconds),
    )
    ended = _wait(attempt, _start(attempt), index, [(moment, signal.SIGSTOP)])
    trace = next((described(one) for one in ended if TRACEBACK in one.output), "")
    return f"process {index} after {moment:.2f} s", trace or _both(attempt, ended)


FAULTS = (
    Fault("one of two processes dies", one_dies, 1, training=True),
    Fault("one of two processes freezes", one_freezes, 1, training=True),
)
