"""A request in a process that checks: its value, what it raises, and a limit that a package cannot catch."""

import signal
import time

from jaxtrain.rewards import checker_worker


def test_a_result_says_what_a_check_returned_or_raised(monkeypatch):
    def fails(x):
        raise KeyError(x)

    assert checker_worker.answer(lambda x: x + 1, 5.0, {"x": 2}) == {"value": 3}
    assert checker_worker.answer(fails, 5.0, {"x": 2}) == {"fault": "failed", "detail": "KeyError: 2"}


def test_a_late_check_is_stopped_though_it_catches_every_exception():
    def stubborn():
        while True:
            try:
                time.sleep(1000)
            except Exception:
                return "went on"

    before = signal.signal(signal.SIGALRM, checker_worker._late)
    try:
        result = checker_worker.answer(stubborn, 0.05, {})
    finally:
        signal.signal(signal.SIGALRM, before)
    assert result == {"fault": "timed_out", "detail": "stopped after 0.05 s"}
    assert signal.getitimer(signal.ITIMER_REAL)[0] == signal.getitimer(signal.ITIMER_PROF)[0] == 0
