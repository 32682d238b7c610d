"""Stops of training: a signal ends it at the next point between two batches, on all processes at the same one."""

import contextlib
import ctypes
import functools
import os
import signal
from collections.abc import Callable, Iterator

import jax

from jaxtrain import signals
from jaxtrain.config import Failure
from jaxtrain.files import progress

_state = {"points": 0}  # stop points that this process has come to


class _Stop(Exception):
    """Training ends here; what is left of it is saved."""


class SavedFailure(Failure):
    """Training cannot go on, and its state is whole: it is saved before the error is raised on."""


def raise_if_stopped(text: str) -> None:
    """Raises what the signal raises that came in the last training of this process, with `text`."""
    if number := signals.recorded_stop():
        error = signals.Stopped(number)
        error.add_note(text)
        raise error


@contextlib.contextmanager
def stoppable(processes: int, ended: Callable[[], str] = str) -> Iterator[contextlib.AbstractContextManager]:
    """Training and the saves after it: yields a context that the first SIGTERM or Ctrl-C leaves at a stop point.

    So does `ended`, once it returns why training is over, on all processes alike. A second signal ends the process at
    once. With several processes jax's own notifier gets SIGTERM, too. A SavedFailure in the yielded context leaves it
    as well, and is raised at the end.
    """
    failed: list[SavedFailure] = []
    signals.record_stop(0)
    with _several() if processes > 1 else signals.noting() as requested:

        def check() -> None:
            if number := requested():
                signals.record_stop(number)
            if number or ended():
                raise _Stop

        with progress.checking(check):
            yield _until_stopped(failed)
        if processes == 1:  # one that came in the last save stops what follows
            signals.record_stop(requested())
    if failed:
        raise failed[0]


@contextlib.contextmanager
def _until_stopped(failed: list[SavedFailure]) -> Iterator[None]:
    try:
        with contextlib.suppress(_Stop):
            yield
    except SavedFailure as error:
        failed.append(error)


@contextlib.contextmanager
def _several() -> Iterator[Callable[[], int]]:
    """The same of several processes, all of which call the function equally often and get the same from it."""
    from jax.experimental import multihost_utils

    def requested() -> int:
        _state["points"] += 1
        stops = multihost_utils.reached_preemption_sync_point(_state["points"])
        return signal.SIGTERM if stops else 0

    notifier = _notifier()
    if not notifier:
        yield requested
        return
    with signals.noting((signal.SIGTERM,), ctypes.CFUNCTYPE(None, ctypes.c_int)(notifier)):
        yield requested


@functools.cache
def _notifier() -> int:
    """The address of the handler that jax.distributed.initialize has set for SIGTERM, 0 without one."""
    if jax.process_count() == 1 or os.name != "posix":
        return 0
    return _c_signal(signal.SIGTERM, signal.SIG_DFL) or 0


def stop_before_training() -> None:
    """Gives SIGTERM back to flags.launch, after jax.distributed.initialize, until training is `stoppable`."""
    if _notifier() and (before := signal.getsignal(signal.SIGTERM)) is not None:
        signal.signal(signal.SIGTERM, before)


def _c_signal(number: int, handler: int) -> int | None:
    """signal(2), which knows handlers that are not Python's: sets one, returns the address of the one before it."""
    call = ctypes.CDLL(None).signal
    call.argtypes, call.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return call(number, handler)
