"""A progress bar, and reports that the work goes on: the watchdog (train/watchdog.py) reads them."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Report(NamedTuple):
    """What was reported last."""

    count: int = 0  # of all reports
    steps: int = 0  # of those about steps
    what: str = "the start"
    slow: bool = False  # what it is about may take an hour without a further report


_latest = Report()
_stop_checks: list[Callable[[], None]] = []


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
    if _stop_checks:
        _stop_checks[-1]()


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
    if total < least or not sys.stderr.isatty():
        if total >= least:
            print(f"{title} ...", file=sys.stderr, flush=True)
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
