"""The trained and the watched reward of each iteration, which checkpoints hold, and whether training is to stop."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtrain.rl.overoptimisation import TRAINED, WATCHED, Turn, turning_point

META = "rewards"  # key of a checkpoint's meta: [step, trained, watched] of each iteration that was watched


class RewardHistory:
    """Mean rewards of a run's iterations, by the number of updates before each. The same on all hosts.

    A rollout is sampled at the same update however often a run was killed, so that the rule decides alike.
    """

    def __init__(self, stop: bool):
        self._points: dict[int, tuple[float, float]] = {}
        self._stop = stop
        self._turn: Turn | None = None

    def add(self, first: int, columns: Mapping[str, np.ndarray]) -> None:
        """Adds the means of the rollout before update `first`, by its columns, if it was watched.

        Those before it decide: so what stops a run is in its metrics, which have a rollout once it is trained on.
        """
        names = [f"stats/{name}" for name in (TRAINED, WATCHED)]
        if not columns.keys() >= {*names}:
            return
        trained, watched = (mean(columns[name]) for name in names)
        if math.isfinite(trained) and math.isfinite(watched):
            before = sorted(step for step in self._points if step < first)
            if self._stop and before:
                self._turn = turning_point(
                    before, *zip(*(self._points[step] for step in before), strict=True)
                )
            self._points[first] = (trained, watched)

    def restore(self, step: int, meta: Mapping[str, Any]) -> None:
        """Takes what a checkpoint of `step` holds."""
        self._points = {
            first: (trained, watched) for first, trained, watched in meta.get(META, ()) if first <= step
        }

    def meta(self) -> dict[str, Any]:
        """What a checkpoint holds: JSON values."""
        points = [[first, *pair] for first, pair in sorted(self._points.items())]
        return {META: points} if points else {}

    def ended(self) -> str:
        """Why training is to stop, empty where it goes on."""
        turn = self._turn
        if turn is None:
            return ""
        return (
            f"the watched reward turned at step {turn.step}: it fell from {turn.best:.3g} to {turn.last:.3g}, by "
            f"{turn.certainty()}, and the trained reward did not (--stop_on_overoptimisation)"
        )


def mean(column: np.ndarray) -> float:
    """The mean of the rows that have a number, in f64; NaN without one."""
    there = column[~np.isnan(column)].astype(np.float64)
    return float(there.mean()) if there.size else math.nan
