"""Steps that were not applied: what is said of each, and when a streak of them ends the run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.train import bad_batches, spikes
from jaxtrain.types import Metrics

COUNTERS = ("skipped", "skipped_in_row", spikes.SHARE, spikes.TOTAL)  # metrics of a step that was not applied

# (step, this host's rows of its batch, why, metrics) -> the file with it, None where there are enough of them
WriteBatch = Callable[[int, Mapping[str, Any], str, Metrics], Path | None]


class TrainingError(config.Failure):
    """Training cannot go on: the message says since when and what to do. No checkpoint was deleted."""


@dataclasses.dataclass
class SkippedSteps:
    """The steps that a run did not apply."""

    run: config.Run
    print: Callable[[str], None]
    write: WriteBatch | None  # None writes no batch
    saved: Callable[
        [], Sequence[int]
    ]  # the steps of the run's checkpoints, ascending, once none is under way
    kinds: list[bool] = dataclasses.field(default_factory=list)  # of the streak: whether a step was a spike
    empty: int = 0  # steps without weight
    unwritten: list[int] = dataclasses.field(default_factory=list)  # steps whose batches are not on disk

    def add(self, step: int, in_row: int, values: Metrics, batch: Mapping[str, Any]) -> None:
        """Says that a step, the last of `in_row` in a row, was not applied, and writes its batch to the disk.

        Raises TrainingError after --max_skips in a row.
        """
        spike = spikes.SHARE in values and bool(values[spikes.SHARE][0])
        self.kinds = [*self.kinds[len(self.kinds) - in_row + 1 :], spike] if in_row > 1 else [spike]
        why = "loss or gradient is not finite"
        if spike:
            why = f"a spike, {spikes.described(values)} (--skip_spikes={self.run.skip_spikes:g})"
        self.print(
            f"step {step}: {why}, not applied (batch {step - 1}{self._written(step, batch, why, values)})"
        )
        if in_row >= self.run.max_skips:
            raise TrainingError(self._streak(step, in_row))

    def add_empty(self, step: int, values: Metrics, batch: Mapping[str, Any]) -> None:
        """Says of the first step without weight that it was not applied, and writes its batch: of rollouts there may be
        many.
        """
        self.empty += 1
        if self.empty == 1:
            why = "nothing of its batch is in the loss"
            where = f"batch {step - 1}{self._written(step, batch, why, values)}"
            self.print(f"step {step}: {why}, not applied ({where}); the later ones are in `skipped`")

    def _written(self, step: int, batch: Mapping[str, Any], why: str, values: Metrics) -> str:
        if self.write is None:
            return ""
        try:
            file = self.write(step, batch, why, values)
        except (OSError, config.Failure) as error:
            self.unwritten.append(step)
            return f"; not written: {error}"
        if file is not None:
            return f", {file}"
        self.unwritten.append(step)
        return (
            f"; not written, as {bad_batches.FOLDER}/ has {bad_batches.MOST} others: {len(self.unwritten)} left out "
            "by this start of the run"
        )

    def _streak(self, step: int, in_row: int) -> str:
        """What is said at the end of a run."""
        what = {
            (True,): "were spikes", (False,): "had a loss or gradient that is not finite"
        }.get(tuple(set(self.kinds)), "were spikes, or had a loss or gradient that is not finite")  # fmt: skip
        remedy = "train with a lower --lr in another --workdir"
        if any(self.kinds):
            remedy += ", or go on in this one with a higher --skip_spikes (0 applies them)"
        first = step - in_row
        return (
            f"{in_row} steps in a row, batches {first} to {step - 1}, {what}. {self._checkpoints(first)} "
            f"The same command meets the same steps again: look at these batches{self._files()}, or {remedy}"
        )

    def _checkpoints(self, applied: int) -> str:
        """Which checkpoint is good: the steps met the state after step `applied`, and the ones before it were fine."""
        saved = self.saved()
        good = [step for step in saved if step < applied]
        doubtful = [str(step) for step in saved if step >= applied]
        text = (
            f"The last good checkpoint is step {good[-1]}"
            if good
            else "There is no checkpoint from before them"
        )
        if doubtful:
            many = len(doubtful) > 1
            text += f"; step{'s' * many} {' and '.join(doubtful)} {'have' if many else 'has'} the parameters they met"
        return f"{text}. No checkpoint was deleted since."

    def _files(self) -> str:
        if self.write is None:
            return ""
        left = f" ({len(self.unwritten)} of the skipped steps are not there)" if self.unwritten else ""
        return f" in {bad_batches.FOLDER}/{left}"
