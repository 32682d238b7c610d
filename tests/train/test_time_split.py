"""Where the time of a run goes, on a clock of our own; and the share that its steps have of all time."""

import pytest

from jaxtrain.train.time_split import TimeSplit, goodput


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_every_part_has_its_seconds_and_they_add_up():
    clock = Clock()
    split = TimeSplit(1.0, None, clock)
    batch, score = split.timed("batches", clock.wait), split.timed("evaluation", clock.wait)
    sample = split.timed("samples", clock.wait)
    clock.wait(5)  # imports
    batch(3)  # the first batch, and compilation
    clock.wait(7)
    split.step(10)
    for _ in range(4):
        batch(0.5)
        clock.wait(1.5)
        split.step(10)
    with split.pause():
        score(4)
        sample(2)
        clock.wait(1)
    parts = split.parts(clock.now)
    assert parts == pytest.approx(
        {"step": 6, "batches": 2, "evaluation": 4, "samples": 2, "save": 1, "start": 15}
    )
    assert sum(parts.values()) == pytest.approx(clock.now)
    assert split.timed("samples", None) is None
    assert split.total()["step_time"] == 2.0 and split.total()["tokens_per_s"] == 5.0
    assert split.text(clock.now) == "start 50%, step 20%, evaluation 13%, batches 7%, samples 7%, save 3%"


def test_a_part_that_fails_is_counted_and_a_run_without_a_second_step_has_no_steady_ones():
    clock = Clock()
    split = TimeSplit(1.0, None, clock)

    def fail():
        clock.wait(2)
        raise KeyError

    with pytest.raises(KeyError), split.pause():
        split.timed("evaluation", fail)()
    split.step(1)
    parts = split.parts(4.0)
    assert parts == {"step": 0.0, "batches": 0.0, "evaluation": 2.0, "save": 0.0, "start": 2.0}
    assert split.text(4.0) in ("evaluation 50%, start 50%", "start 50%, evaluation 50%")


def test_goodput_is_what_the_steps_that_count_took():
    rows = [
        {"step": 10, "lr": 1.0},  # compiles
        {"step": 20, "lr": 1.0, "step_time": 2.0},
        {"step": 20, "eval/loss": 1.0},
        {"step": 35, "lr": 1.0, "step_time": 4.0},
    ]
    # 10 · 3 + 10 · 2 + 15 · 4, over 200 seconds.
    assert goodput(rows, 200.0) == pytest.approx(110 / 200)
    assert goodput([], 10.0) == 0.0 and goodput(rows[:1], 10.0) == 0.0 and goodput(rows, 0.0) == 0.0
