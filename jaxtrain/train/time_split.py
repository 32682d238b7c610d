"""Where the time of a run goes: steps, batches (data or rollouts), evaluation, samples, saving; and its goodput."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jaxtrain.train.metric_names import is_training
from jaxtrain.train.metrics import SpeedMeter

Result = TypeVar("Result")
_SHOWN = 0.005  # share of the time below which a part is left out


class TimeSplit(SpeedMeter):
    """A SpeedMeter that also adds up the seconds of each part of a run.

    What is `timed` in a pause is taken out of "save", which is the rest of the pauses; between steps, out of "step".
    """

    def __init__(self, flops: float, peak: float | None, clock: Callable[[], float] = time.perf_counter):
        super().__init__(flops, peak, clock)
        self._parts: dict[str, float] = {}
        self._paused, self._timed_in_pause, self._pausing = 0.0, 0.0, False
        self._steps = 0

    def step(self, tokens: int) -> None:
        """One more step has finished; the time up to the first one is the start's."""
        super().step(tokens)
        self._steps += 1
        if self._steps == 1:  # what was waited for so far is part of the start
            self._parts.pop("batches", None)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time in here is not training time."""
        begun, self._pausing = self._clock(), True
        try:
            with super().pause():
                yield
        finally:
            self._pausing = False
            self._paused += self._clock() - begun

    def timed(self, part: str, f: Callable[..., Result] | None) -> Callable[..., Result] | None:
        """f, whose time is that of a part: batches, evaluation or samples; None for None."""
        if f is None:
            return None

        @functools.wraps(f)
        def run(*args: Any, **options: Any) -> Result:
            begun = self._clock()
            try:
                return f(*args, **options)
            finally:
                seconds = self._clock() - begun
                self._parts[part] = self._parts.get(part, 0.0) + seconds
                self._timed_in_pause += seconds if self._pausing else 0.0

        return run

    def parts(self, seconds: float) -> dict[str, float]:
        """Seconds of each part of a run that took `seconds`; "start" is the rest: compilation, data, the first step."""
        steady = self.total().get("step_time", 0.0) * max(self._steps - 1, 0)
        batches = min(self._parts.get("batches", 0.0), steady)
        split = {"step": steady - batches, **self._parts, "batches": batches}
        split["save"] = max(self._paused - self._timed_in_pause, 0.0)
        return {**split, "start": max(seconds - sum(split.values()), 0.0)}

    def text(self, seconds: float) -> str:
        """The parts in words, the largest first, such as `step 84 %, start 9 %, evaluation 5 %, save 2 %`."""
        parts = sorted(self.parts(seconds).items(), key=lambda pair: -pair[1])
        return ", ".join(
            f"{name} {value / seconds:.0%}" for name, value in parts if value >= _SHOWN * seconds
        )


def goodput(rows: Sequence[Mapping[str, Any]], seconds: float) -> float:
    """The share of the `seconds` since a run's first start that its steps took; steps that were lost do not count.

    rows: the lines of metrics.jsonl, which a resumed run rewinds to its checkpoint. A line's step_time is that of a
    step since the line before; one without it, as the first line of a start may be, has the mean of the others.
    """
    lines = [row for row in rows if is_training(row)]
    known = [row["step_time"] for row in lines if row.get("step_time")]
    if not known or seconds <= 0:
        return 0.0
    mean, before, productive = sum(known) / len(known), 0, 0.0
    for row in lines:
        productive += (row["step"] - before) * (row.get("step_time") or mean)
        before = row["step"]
    return productive / seconds
