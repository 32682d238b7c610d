"""The watchdog: ends a process in which nothing goes on, with the stacks of all its threads, so that it is restarted.

A thread compares the reports of files/progress.py with its own ticks; time in which this process did not run (SIGSTOP,
a laptop asleep) does not count. Where a thread never gives back Python's lock, as a regular expression may, the ticks
end too: a second process (watchdog_monitor.py) then sends signal STATUS, whose handlers are C's.
"""

import collections
import contextlib
import ctypes
import dataclasses
import faulthandler
import functools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from jaxtrain import signals
from jaxtrain.config import is_remote
from jaxtrain.files import progress

STATUS = 42  # exit status; also a real-time signal, whose handler _exit(2) takes its number for the status
TICK = 1.0  # seconds
FLOOR, SLOW = 600.0, 3600.0  # seconds without a report that are always allowed: of most work, of slow work
STEPS, GAPS = (
    20.0,
    5.0,
)  # and as multiples of the median step, and of the longest time between two reports so far
_COMPILE = "/jax/core/compile/"
_LOWERED, _COMPILED = f"{_COMPILE}jaxpr_to_mlir_module_duration", f"{_COMPILE}backend_compile_duration"


@dataclasses.dataclass
class Stall:
    """How long nothing has been reported. timeout: seconds allowed, None to derive them from what has been seen."""

    timeout: float | None
    still: float = 0.0  # seconds of this process's own time since the last report
    longest: float = 0.0
    seen: progress.Report = dataclasses.field(default_factory=progress.latest)
    steps: collections.deque = dataclasses.field(default_factory=lambda: collections.deque(maxlen=100))
    since_step: float = 0.0

    def tick(self, elapsed: float, latest: progress.Report) -> bool:
        """Whether more time than `limit` has gone by without a report; `elapsed` s have, since the last tick."""
        elapsed = min(elapsed, 2 * TICK)  # in the rest of it this process did not run
        self.still += elapsed
        self.since_step += elapsed
        if new := latest.steps - self.seen.steps:
            self.steps.append(self.since_step / new)
            self.since_step = 0.0
        if latest.count != self.seen.count:
            if not self.seen.slow:
                self.longest = max(self.longest, self.still)
            self.still = 0.0
        self.seen = latest
        return self.still > self.limit()

    def limit(self) -> float:
        """Seconds without a report that are allowed now."""
        if self.timeout is not None:
            return max(self.timeout, SLOW) if self.seen.slow else self.timeout
        median = statistics.median(self.steps) if self.steps else 0.0
        slow = self.seen.slow or not self.steps
        return max(SLOW if slow else FLOOR, STEPS * median, GAPS * self.longest)


@contextlib.contextmanager
def watch(timeout: float | None, folder: Path, process: int = 0) -> Iterator[None]:
    """Watches this process until the context ends. timeout: None for `Stall`'s own limits, 0 for no watchdog.

    The stacks go to stderr and to FOLDER/hang-PROCESS.txt. Off a terminal process 0 prints lines on what goes on.
    """
    if timeout == 0:
        with progress.lines(show=process == 0):
            yield
        return
    if "jax" in sys.modules:
        _listen_to_compiler()
    progress.report("the start")
    file = (Path(tempfile.gettempdir()) if is_remote(folder) else folder) / f"hang-{process}.txt"
    ended = threading.Event()
    stall = Stall(timeout)
    with progress.lines(show=process == 0), _monitor(file) as tell:
        tell(stall.limit())
        thread = threading.Thread(target=_loop, args=(stall, file, ended, tell), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _loop(stall: Stall, file: Path, ended: threading.Event, tell: Callable[[float], None]) -> None:
    last = time.monotonic()
    while not ended.wait(TICK):
        now = time.monotonic()
        if stall.tick(now - last, progress.latest()):
            _end(stall, file)
        last = now
        tell(stall.limit())


def _end(stall: Stall, file: Path) -> None:
    """Writes the stacks of all threads and ends the process."""
    head = (
        f"watchdog: no progress for {stall.still:.0f} s, of {stall.limit():.0f} s allowed, since: {stall.seen.what}. "
        "The stacks of all threads:\n"
    )
    os.write(2, head.encode(errors="replace"))
    faulthandler.dump_traceback(2)
    where = f"stacks are in {file}"
    try:
        with file.open("w", encoding="utf-8") as out:
            out.write(head)
            out.flush()
            faulthandler.dump_traceback(out)
    except OSError as error:
        where = f"{file} cannot be written: {error.strerror}"
    signals.leave(STATUS, f"error: watchdog: {stall.seen.what} hangs; {where}; exit status {STATUS}")


@functools.cache
def _listen_to_compiler() -> None:
    """Has jax report what it traces and compiles: a compilation is slow work."""
    import jax

    before = progress.latest()

    def on_duration(event: str, seconds: float, **_: object) -> None:
        nonlocal before
        latest = progress.latest()
        if event == _LOWERED:
            before = latest
            progress.report(f"a compilation after {latest.what}", slow=True)
        elif event == _COMPILED:
            progress.report(before.what, slow=before.slow)
        elif event.startswith(_COMPILE):
            progress.report(latest.what, slow=latest.slow)

    jax.monitoring.register_event_duration_secs_listener(on_duration)


@contextlib.contextmanager
def _monitor(file: Path) -> Iterator[Callable[[float], None]]:
    """Yields a function that tells the second process that this one ticks, and how long it may not."""
    if sys.platform != "linux":
        yield lambda limit: None
        return
    with tempfile.TemporaryFile() as stacks, _dying_of(STATUS, stacks):
        script = str(Path(__file__).with_name("watchdog_monitor.py"))
        arguments = [str(os.getpid()), str(STATUS), str(stacks.fileno()), str(file)]
        with subprocess.Popen(
            [sys.executable, "-I", "-S", script, *arguments],
            stdin=subprocess.PIPE,
            pass_fds=(stacks.fileno(),),
        ) as monitor:
            os.set_blocking(monitor.stdin.fileno(), False)

            def tell(limit: float) -> None:
                # Where it was killed or stopped, the thread watches alone.
                with contextlib.suppress(BrokenPipeError, BlockingIOError):
                    os.write(monitor.stdin.fileno(), f"{limit}\n".encode())

            yield tell


@contextlib.contextmanager
def _dying_of(number: int, stacks: IO[bytes]) -> Iterator[None]:
    """Within it the signal writes the stacks of all threads to a file and ends the process, without Python's lock."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    before = libc.signal(number, ctypes.cast(libc._exit, ctypes.c_void_p))
    faulthandler.register(number, stacks, all_threads=True, chain=True)
    try:
        yield
    finally:
        faulthandler.unregister(number)
        libc.signal(number, before or signal.SIG_DFL)
