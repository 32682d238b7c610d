"""What SIGTERM and Ctrl-C do to a command: they end it at once, or, while it trains, after the batch under way.

What sends SIGTERM seldom waits for long, so the wait for that batch has a bound, after which the process leaves.
A thread sees to it that they end it where the main thread is in C code, which Python's own handlers wait for. What a
handler raises is raised again where Python ignores it, as in a callback of its garbage collector.
"""

import contextlib
import functools
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SIGTERM, SIGINT = signal.SIGTERM, signal.SIGINT
SIGNALS = (SIGTERM, SIGINT)
GRACE = 10.0  # seconds in which a command that a signal ends leaves by itself
WITHIN = "JAXTRAIN_STOP_WITHIN"  # a variable: seconds after SIGTERM until what started this process kills it
STOP_WITHIN = 300.0  # the same without the variable
_SHARE = 0.9  # of them, in which a batch under way has to end: in the rest the process leaves by itself
FLUSHED_WITHIN = 1.0  # seconds, where a thread that hangs may own the lock of a stream
PARENT = "JAXTRAIN_PARENT"  # a child's variable: a pipe that closes when the process that started it ends
_AGAIN = 0.02  # seconds after which an error that was ignored is raised again
_ANSWER = 0.5  # seconds in which a command that a signal ends has ended, or a line says that it is to

_repeated: list[int] = []  # signals that `_again` repeats: they are no second ones
_noted: list[int] = []  # signals that `noting` has received
_noting = 0  # how many `noting` there are
_saving = 0  # how many `saving` there are
_saved = -math.inf  # when the last one ended
_forwarding: list[Callable[[int], object]] = []  # those of `noting`
_watching = False  # whether the thread of `install` answers signals
_training_stop = 0  # the signal that stopped the last training of this process
_explanations: list[Callable[[], str]] = []


class Stopped(KeyboardInterrupt):
    """A signal, its number, that ends a command as Ctrl-C does: SIGTERM, or SIGHUP of a terminal that is closed."""


def number_of(error: KeyboardInterrupt) -> int:
    """The signal behind an error."""
    return error.args[0] if isinstance(error, Stopped) else SIGINT


def behind(error: BaseException) -> BaseException:
    """The signal's error that an error was raised from, else the error itself: libraries make others of any error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__
    return error if cause is None else cause


def status(number: int) -> int:
    """The exit status of a command that a signal has ended: 143 of SIGTERM, 130 of Ctrl-C."""
    return 128 + number


def name(number: int) -> str:
    """A signal as messages name it."""
    return "Ctrl-C" if number == SIGINT else signal.Signals(number).name


def end_with_parent() -> None:
    """From now on kills this process when the one that started it through ChildProcesses has ended, kill -9 included.

    Else the child would hold the lock of its --workdir, and the same command again would be refused.
    """
    if (pipe := os.environ.pop(PARENT, "")) == "":
        return

    def wait() -> None:
        os.read(int(pipe), 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def record_stop(number: int) -> None:
    """Remembers the signal that has stopped the training under way, 0 at its beginning."""
    global _training_stop
    _training_stop = number


def recorded_stop() -> int:
    """The signal that stopped the last training of this process, 0 where none did."""
    return _training_stop


def install(grace: float = GRACE, stop_within: float = STOP_WITHIN) -> None:
    """From now on SIGTERM raises Stopped, and a process that a signal does not end in `grace` seconds is ended.

    So is one that trains, after SIGTERM, where the batch under way does not end well before `stop_within` seconds, and
    a child of ChildProcesses with the process that started it. Every signal is answered within a second, whatever C
    code the main thread is in: it ends the command, or a line says what it waits for.
    """
    global _watching
    _watching = True
    end_with_parent()
    for number in (SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)
    received, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    threading.Thread(
        target=_enforce, args=(received, grace, _SHARE * stop_within), name="signals", daemon=True
    ).start()
    sys.unraisablehook = functools.partial(_again, sys.unraisablehook)


def _raise(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process
    raise Stopped(number)


def _again(before: Callable[[Any], Any], ignored: Any) -> None:
    """Takes the place of sys.unraisablehook: what a signal raised is raised again, all else goes to `before`."""
    error = ignored.exc_value
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        before(ignored)
        return
    number = number_of(error)
    if isinstance(error, Stopped):
        signal.signal(number, _raise)

    def repeat() -> None:
        _repeated.append(number)
        signal.pthread_kill(threading.main_thread().ident, number)

    timer = threading.Timer(_AGAIN, repeat)  # within this hook it would be ignored too
    timer.daemon = True
    timer.start()


def _enforce(received: int, grace: float, batch: float) -> None:
    """Ends the process where the handlers of Python do not: it reads what the C handlers write.

    batch: seconds after SIGTERM in which a batch of training has to end.
    """
    first, until, answer, waited = 0, math.inf, math.inf, ""
    while True:
        wait = None if until == math.inf else max(0.0, min(until, answer) - time.monotonic())
        if not select.select([received], [], [], wait)[0]:
            if time.monotonic() < until:
                answer = math.inf
                _write(f"{name(first)}: stopping, in at most {grace:.0f} s; again: now\n")
            elif _saving or time.monotonic() < _saved + grace:  # the watchdog bounds a save
                until = time.monotonic() + _ANSWER
            else:
                leave(status(first), f"error: stopped by {name(first)}{waited}{_explained()}")
            continue
        for number in os.read(received, 64):
            if number in _repeated:
                _repeated.remove(number)
                continue
            if number not in SIGNALS or not (_noting or _ours(number) or first):
                continue
            if first:
                leave(status(number), f"error: ended by a second {name(number)}{_explained()}")
            first = number
            if not _noting:
                until, answer = time.monotonic() + grace, time.monotonic() + min(_ANSWER, grace)
                continue
            for forward in _forwarding:
                forward(number)
            bounded = number == SIGTERM
            if bounded:
                until = time.monotonic() + batch
                waited = f"; the work under way had not ended {batch:.0f} s after it"
            _write(_after_this_step(number, f", in at most {batch:.0f} s" if bounded else ""))


def _after_this_step(number: int, bound: str = "") -> str:
    return f"{name(number)}: stopping after this step{bound}; again: now\n"


def _ours(number: int) -> bool:
    """Whether the signal ends the command: one that serves has handlers of its own."""
    return signal.getsignal(number) in (_raise, signal.SIG_DFL, signal.default_int_handler)


def leave(code: int, message: str) -> None:
    """Ends the process with a message, whatever its threads do."""
    _write(f"{message}\n")
    flush = threading.Thread(target=lambda: (sys.stdout.flush(), sys.stderr.flush()), daemon=True)
    flush.start()
    flush.join(FLUSHED_WITHIN)
    os._exit(code)


def _write(text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is closed
        os.write(2, text.encode(errors="replace"))


@contextlib.contextmanager
def explaining(text: Callable[[], str]) -> Iterator[None]:
    """Within it a command that a signal ends says `text` too, such as what is on the disk."""
    _explanations.append(text)
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(text())
        raise
    finally:
        _explanations.remove(text)


def _explained() -> str:
    return "".join(f"\n{text()}" for text in reversed(_explanations))


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within it, and for the grace after it, a signal that was noted ends nothing: a save is worth the time."""
    global _saving, _saved
    _saving += 1
    try:
        yield
    finally:
        _saving, _saved = _saving - 1, time.monotonic()


@contextlib.contextmanager
def noting(
    numbers: Sequence[int] = SIGNALS, forward: Callable[[int], object] | None = None
) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the number of the signal received in this context, 0 without one.

    The first of `numbers` is only noted, and passed to `forward`; the second one does what it did before.
    """
    global _noting
    before: dict[int, Any] = {}
    _noted.clear()

    def note(number: int, frame: Any) -> None:
        _noted.append(number)
        restore()
        if not _watching:  # a print could meet one that the signal interrupted
            if forward:
                forward(number)
            _write(_after_this_step(number))

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    _noting += 1
    if forward:
        _forwarding.append(forward)
    try:
        for number in numbers:
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: signals are the caller's
        before = {}
    try:
        yield lambda: _noted[0] if _noted else 0
    finally:
        _noting -= 1
        if forward:
            _forwarding.remove(forward)
        if not _noted:
            restore()
