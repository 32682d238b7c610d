import jax.numpy as jnp
import pytest

from jaxtrain.apps.benchmark import timing
from jaxtrain.apps.benchmark.timing import Clock, Timing


class Time:
    """A clock that moves by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_budget_runs_out():
    now = Time()
    clock = Clock(10, now)
    assert clock.left() == 10 and clock.fits(10) and not clock.fits(10.1)
    now.now += 4
    assert clock.left() == 6 and clock.fits(6) and not clock.fits(7)
    now.now += 20
    assert clock.left() == 0 and clock.fits(0) and not clock.fits(0.1)


def test_repeats_of_several_calls_after_a_warm_up(monkeypatch):
    now, calls, waits = Time(), [], []
    monkeypatch.setattr(timing.host, "clocks", lambda: (now.now, now.now / 2))

    def work():
        calls.append(1)
        now.now += len(calls)  # each call takes a second more than the one before it
        return len(calls)

    times = timing.repeat(work, warmup=2, repeats=3, calls=2, wait=waits.append)
    assert len(calls) == 2 + 3 * 2 and waits == [1, 2, 4, 6, 8]  # once a repeat: the host runs ahead
    assert times.wall == (3.5, 5.5, 7.5) and times.cpu == (1.75, 2.75, 3.75)
    assert times.record() == {"median": 5.5, "low": 3.5, "high": 7.5, "repeats": 3}
    assert times.best == 3.5


@pytest.mark.parametrize(("seconds", "repeats"), [(100, 5), (5, 3), (0, 1)])
def test_repeats_end_with_the_budget_but_there_is_one(monkeypatch, seconds, repeats):
    now = Time()
    monkeypatch.setattr(timing.host, "clocks", lambda: (now.now, 0.0))

    def work():
        now.now += 1
        return now.now

    clock = Clock(seconds, now)
    times = timing.repeat(work, warmup=1, repeats=5, calls=1, wait=lambda x: x, clock=clock)
    assert len(times.wall) == (repeats if seconds != 5 else 4)


def test_rates_are_of_the_work_that_is_said():
    assert timing.matmul_timing(8, 16, 8, jnp.bfloat16, repeats=2).record()["repeats"] == 2
    assert timing.copy_timing(4096, repeats=1).median > 0 and timing.read_timing(4096, repeats=1).median > 0
    assert Timing((1.0, 2.0, 9.0), ()).median == 2.0
