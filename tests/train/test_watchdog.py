"""The watchdog: when it ends a process, that it does so wherever that hangs, and what it leaves."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxtrain.files import progress
from jaxtrain.files.progress import Report
from jaxtrain.train import watchdog
from jaxtrain.train.watchdog import FLOOR, GAPS, SLOW, STATUS, STEPS, TICK, Stall

ROOT = Path(__file__).parents[2]


def seconds_until_ended(stall: Stall, report: Report, most: int = 10**5) -> int:
    """Ticks of a second with one report and nothing after it."""
    return next(
        i
        for i in range(most)
        if stall.tick(
            TICK,
            report,
        )
        and i
    )


def trained(step_seconds: int, steps: int = 10) -> tuple[Stall, Report]:
    """A stall that has seen steps of so many seconds."""
    stall, report = Stall(None, seen=Report()), Report()
    for _ in range(steps):
        for _ in range(step_seconds - 1):
            assert not stall.tick(TICK, report)
        report = report._replace(count=report.count + 1, steps=report.steps + 1)
        assert not stall.tick(TICK, report)
    return stall, report


def test_auto_has_a_floor_then_follows_the_median_step():
    for step, limit in ((1, FLOOR), (100, STEPS * 100)):
        stall, report = trained(step)
        assert stall.limit() == limit
        assert seconds_until_ended(stall, report) == limit


def test_one_long_wait_is_allowed_again():
    """A rollout of 1,000 s among steps of a second."""
    stall, report = trained(1)
    for _ in range(500):
        assert not stall.tick(TICK, report)
    stall.tick(TICK, report._replace(count=99))
    assert stall.limit() == GAPS * 501


def test_slow_work_has_an_hour_whatever_the_timeout():
    stall, report = trained(1)
    slow = report._replace(count=report.count + 1, slow=True)
    stall.tick(TICK, slow)
    assert stall.limit() == SLOW == Stall(5.0, seen=slow).limit()
    stall.tick(TICK, report._replace(count=report.count + 2))
    assert stall.limit() == FLOOR, "the time of a save is no measure of what follows"
    assert Stall(None, seen=Report()).limit() == SLOW, "before the first step"
    assert Stall(5.0, seen=Report()).limit() == 5.0


def test_time_in_which_the_process_did_not_run_does_not_count():
    """Suspended for a day, again and again, between ticks."""
    stall = Stall(10.0, seen=Report())
    assert [stall.tick(86400.0, Report()) for _ in range(6)] == [False] * 5 + [True]


def test_a_compilation_is_slow_work_until_it_is_done(monkeypatch):
    watchdog._listen_to_compiler()
    seen, report = [], progress.report
    monkeypatch.setattr(
        progress, "report", lambda what, **how: (report(what, **how), seen.append(progress.latest()))
    )
    report("a batch")
    jax.jit(lambda x: jnp.sin(x) + 0.123)(jnp.ones(3)).block_until_ready()
    assert any(each.slow and "a compilation after a batch" in each.what for each in seen)
    assert not seen[-1].slow and progress.latest().what == "a batch"


HANGS = """
import ctypes, re, sys, time
from pathlib import Path
from jaxtrain.files import progress
from jaxtrain.train import watchdog
def reward_that_hangs():
    {hang}
watchdog.TICK = 0.1
with watchdog.watch({timeout}, Path(sys.argv[1]), 3):
    print("before", end="")
    progress.report("scoring 8 completions")
    reward_that_hangs()
print("after")
"""


def start(tmp_path, hang, timeout=0.5):
    return subprocess.Popen(
        [sys.executable, "-c", HANGS.format(hang=hang, timeout=timeout), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("hang", "locked"),
    [
        ("time.sleep(900)", False),
        ("ctypes.CDLL(None).sleep(900)", False),
        ("ctypes.PyDLL(None).sleep(900)", True),  # it holds Python's lock, so that no thread of Python's runs
        ("re.match('(a+)+$', 'a' * 60 + 'b')", True),
    ],
)
def test_a_process_that_hangs_ends_with_its_stacks(tmp_path, hang, locked):
    with start(tmp_path, hang) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == STATUS, err
    file = tmp_path / "hang-3.txt"
    for text in (err, file.read_text()):
        assert "The stacks of all threads" in text and re.search(r"line \d+ in reward_that_hangs", text)
    assert f"stacks are in {file}; exit status {STATUS}" in err
    if not locked:
        assert out == "before", "what was printed is flushed"
        assert "since: scoring 8 completions" in err


def test_a_process_that_is_stopped_and_goes_on_is_left_alone(tmp_path):
    """For longer than the timeout, which the monitor's own ticks show: it goes on watching."""
    wait = "print('up', flush=True)\n    for _ in range(5): time.sleep(0.1); progress.report('x')"
    with start(tmp_path, wait, timeout=2.0) as process:
        assert process.stdout.readline() == "beforeup\n"
        process.send_signal(signal.SIGSTOP)
        subprocess.run(["sleep", "4"], check=True)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "after\n", "")


def test_the_watchdog_ends_with_its_context(tmp_path):
    before = signal.getsignal(STATUS)
    with watchdog.watch(None, tmp_path):
        pass
    with watchdog.watch(0, tmp_path):
        pass
    assert signal.getsignal(STATUS) is before and not list(tmp_path.iterdir())
