"""A progress bar, or lines without a terminal, and reports that the work goes on, which the watchdog
(train/watchdog.py) reads.
"""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

EVERY = 10.0  # seconds without a line after which one says what goes on, where there is no terminal
WIDENING = 25  # outside of a bar, which ends, lines grow rarer: one in this share of the time so far


class Report(NamedTuple):
    """What was reported last."""

    count: int = 0  # of all reports
    steps: int = 0  # of those about steps
    what: str = "the start"
    slow: bool = False  # what it is about may take an hour without a further report


@dataclasses.dataclass
class _Bar:
    """A bar under way, off a terminal."""

    title: str
    total: int
    done: int = 0
    begun: float = dataclasses.field(default_factory=time.monotonic)

    def __str__(self) -> str:
        text = f"{self.title}: {self.done:,} of {self.total:,}"
        if not self.done:
            return text
        left = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
        return f"{text}, {100 * self.done / self.total:.0f} %, about {left:.0f} s left"


_latest = Report()
_stop_checks: list[Callable[[], None]] = []
_bars: list[_Bar] = []
_thread = threading.local()  # whether it works in the background
_lines = {"last": 0.0, "threads": 0.0}  # time of the last line, and whether a thread of `lines` runs


def report(what: str, *, slow: bool = False, step: bool = False) -> None:
    """Reports that the work goes on, so that the watchdog waits anew; `what` is what it names where nothing follows.

    slow: it may take an hour without a report, as a save of hundreds of GB does. step: a step of training is done.
    """
    global _latest
    _latest = Report(_latest.count + 1, _latest.steps + step, what, slow)


def latest() -> Report:
    """What was reported last."""
    return _latest


def stop_point(what: str) -> None:
    """Reports, at a point between two batches to which all processes of a run come alike; here a signal stops it.

    Raises what the innermost of `checking` raises.
    """
    report(what)
    if _stop_checks and not getattr(_thread, "in_background", False):
        _stop_checks[-1]()


@contextlib.contextmanager
def in_background() -> Iterator[None]:
    """Within it this thread's stop points only report: another thread stops the work."""
    _thread.in_background = True
    try:
        yield
    finally:
        _thread.in_background = False


@contextlib.contextmanager
def checking(check: Callable[[], None]) -> Iterator[None]:
    """Within it `stop_point` calls `check`, which raises where the work is to stop."""
    _stop_checks.append(check)
    try:
        yield
    finally:
        _stop_checks.pop()


@contextlib.contextmanager
def bar(title: str, total: int, *, least: int = 0) -> Iterator[Callable[[int], None]]:
    """A function that advances the bar: on a terminal a bar on stderr, else a line; nothing for `total` < `least`.

    Each advance is a report.
    """
    if not sys.stderr.isatty():
        if total >= least:
            print(f"{title} ...", file=sys.stderr, flush=True)
            line_printed()
        with _plain_bar(title, total) as advance:
            yield advance
        return
    if total < least:
        report(title)
        yield lambda done: report(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)

        def advance(done: int) -> None:
            report(title)
            progress.advance(task, done)

        report(title)
        yield advance


@contextlib.contextmanager
def _plain_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    bar = _Bar(title, total)

    def advance(done: int) -> None:
        bar.done += done
        report(title)

    report(title)
    _bars.append(bar)
    try:
        with lines():
            yield advance
    finally:
        _bars.remove(bar)


def line_printed() -> None:
    """Says that a line on the work was printed, so that `lines` waits anew."""
    _lines["last"] = time.monotonic()


@contextlib.contextmanager
def lines(every: float | None = None, show: bool = True) -> Iterator[None]:
    """Within it, without a terminal, a line on stderr says what goes on wherever none was printed for `every` seconds.

    Steps of training have lines of their own. Contexts within another one do nothing. `show`: false of processes that
    print nothing.
    """
    if _lines["threads"] or sys.stderr.isatty() or sys.stdout.isatty():
        yield
        return
    ended = threading.Event()
    line_printed()
    thread = threading.Thread(target=_print_lines, args=(ended, every or EVERY), name="progress", daemon=True)
    _lines["threads"] = 1.0  # without `show` too: the bars within print none either
    if show:
        thread.start()
    try:
        yield
    finally:
        _lines["threads"] = 0.0
        ended.set()
        if show:
            thread.join()


def _print_lines(ended: threading.Event, every: float) -> None:
    begun, steps = time.monotonic(), _latest.steps
    while not ended.wait(every / 10):
        now = time.monotonic()
        if now - _lines["last"] < (every if _bars else max(every, (now - begun) / WIDENING)):
            continue
        if _latest.steps == steps:
            bar = [str(_bars[-1])] if _bars else []
            text = "; ".join([*bar, *[_latest.what] * (not bar or _latest.what != _bars[-1].title)])
            try:
                print(f"{text} ({now - begun:.0f} s so far)", file=sys.stderr, flush=True)
            except (OSError, ValueError):  # a stream that is closed: nobody reads it any more
                return
        steps = _latest.steps
        line_printed()
