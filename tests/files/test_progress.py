"""Reports that the work goes on, points to stop at, and the bar that reports."""

import io
import re
import sys
import threading

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


class Lines(io.StringIO):
    """A stream of lines with an event for each one."""

    def __init__(self):
        super().__init__()
        self.came = threading.Event()

    def flush(self):
        self.came.set()

    def next(self):
        """The next line, waited for."""
        assert self.came.wait(30)
        self.came.clear()
        return self.getvalue().splitlines()[-1]


def test_off_a_terminal_lines_say_what_goes_on(monkeypatch):
    stream = Lines()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with progress.lines(every=0.05), progress.lines(every=0.01):
        progress.report("sampling, prompt 3 of 9")
        assert "sampling, prompt 3 of 9 (0 s so far)" in (stream.next(), stream.next())
        with progress.bar("revisions", 200, least=999) as advance:
            advance(50)
            progress.report("sampling, prompt 7 of 9")
            shown = [stream.next() for _ in range(3)]
            assert re.search(
                r"^revisions: 50 of 200, 25 %, about \d+ s left; sampling, prompt 7 of 9 ", shown[-1]
            )
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_steps_have_lines_of_their_own_and_so_has_what_printed(monkeypatch):
    """No line while steps go on, nor soon after another one."""
    stream, ended = Lines(), threading.Event()
    monkeypatch.setattr(sys, "stderr", stream)
    waits = iter([False] * 6)

    def wait(seconds):
        progress.report("step", step=True)
        progress._lines["last"] -= 60
        return next(waits, True)

    monkeypatch.setattr(ended, "wait", wait)
    progress._print_lines(ended, 10.0)
    assert stream.getvalue() == ""
    monkeypatch.setattr(ended, "wait", lambda seconds: next(more, True))
    more = iter([False] * 6)
    progress.line_printed()
    progress._print_lines(ended, 10.0)
    assert stream.getvalue() == ""


def test_on_a_terminal_or_for_other_processes_there_are_no_lines(monkeypatch):
    for show, tty in ((False, False), (True, True)):
        monkeypatch.setattr(sys, "stderr", stream := Lines())
        monkeypatch.setattr(stream, "isatty", lambda tty=tty: tty)
        with progress.lines(every=0.01, show=show), progress.bar("counting", 2, least=9):
            assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


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
