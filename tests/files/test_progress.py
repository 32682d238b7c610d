"""Reports that the work goes on, points to stop at, and the bar that reports."""

import io
import sys

import pytest

from jaxtrain.files import progress


def test_reports_are_counted():
    before = progress.latest()
    progress.report("a batch")
    progress.report("a save", slow=True)
    progress.report("a step", step=True)
    assert progress.latest() == progress.Report(before.count + 3, before.steps + 1, "a step", False)


def test_the_innermost_check_is_asked():
    def stop():
        raise InterruptedError("stopped")

    with progress.checking(stop):
        with progress.checking(lambda: None):
            progress.stop_point("a batch")
        with pytest.raises(InterruptedError, match="stopped"):
            progress.stop_point("a batch")
    progress.stop_point("a batch")
    assert progress.latest().what == "a batch"


def test_off_a_terminal_a_bar_is_a_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = progress.latest().count
    for least in (0, 3):
        with progress.bar("counting", 2, least=least) as advance:
            advance(1)
            advance(1)
    assert sys.stderr.getvalue() == "counting ...\n"
    assert progress.latest() == progress.latest()._replace(count=before + 6, what="counting")


def test_on_a_terminal_each_advance_is_shown_and_reported(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    before = progress.latest().count
    with progress.bar("counting", 2) as advance:
        advance(2)
    assert "counting" in sys.stderr.getvalue() and "100 %" in sys.stderr.getvalue()
    assert progress.latest().count == before + 2
