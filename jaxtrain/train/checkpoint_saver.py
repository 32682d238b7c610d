"""When the state of a run is saved, and which checkpoints stay.

A checkpoint is of applied steps: where none was applied since the last one, another would only evict a checkpoint for
a copy of the newest. Neither is any deleted while steps are being skipped. The parameters that a streak of skipped
steps meets may be the ones that a bad update has spoilt, and whether they are shows with the next applied step alone.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxtrain import signals
from jaxtrain.train import best_checkpoint
from jaxtrain.train.best_checkpoint import BestCheckpoint
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.parallel import Plan
from jaxtrain.types import TrainState


class CheckpointSaver:
    """Saves the states of one run, which goes on from `state`.

    checkpoints: None saves nothing. meta: what a checkpoint holds beside the state, but its step; called before a save.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        plan: Plan,
        state: TrainState,
        *,
        meta: Callable[[], Mapping[str, Any]],
        show: Callable[[str], None],
        best: BestCheckpoint | None = None,
    ):
        self._checkpoints, self._plan = checkpoints, plan
        self._meta, self._show, self._best = meta, show, best
        # Steps applied up to the state saved last.
        self._applied = self._counts(state)[0] if checkpoints else 0
        self._step, self._values = -1, {}  # of the last evaluation
        self._missing = False  # whether evaluations have not got the metric of --keep_best

    def _counts(self, state: TrainState) -> tuple[int, int]:
        """(applied steps, skipped steps since the last applied one)."""
        step, skipped, in_row = self._plan.get((state.step, state.skipped, state.skipped_in_row))
        return int(step) - int(skipped), int(in_row)

    def evaluated(self, step: int, values: Mapping[str, float], *, more: bool = False) -> None:
        """Notes metrics of a step's evaluation, for the checkpoint of this step. `more`: samples are still to come."""
        self._step, self._values = step, {**(self._values if step == self._step else {}), **values}
        if self._best is not None:
            self._best.names |= values.keys()
            self._missing = not more and self._best.metric not in self._best.names

    def save(self, step: int, state: TrainState, *, due: bool = True, last: bool = False) -> None:
        """Saves a state if it is `due` and no copy of the newest checkpoint, if it is the `last`, or the best so far.

        Raises ConfigError, once the state is saved, where evaluations have not got the metric of --keep_best.
        """
        if self._checkpoints is None:
            return
        applied, in_row = self._counts(state)
        values, best = self._values if step == self._step else {}, self._best
        better = best is not None and best.better(values)
        if last or better or ((due or self._missing) and applied > self._applied):
            if better:
                best.update(step, values)
                self._show(f"step {step}: best {best} so far, {best.value:.6g}")
            # The newest one alone would not do: whether it is good shows with the next step.
            newest = self._checkpoints.keep if last else max(self._checkpoints.keep, 2)
            retain = functools.partial(
                best_checkpoint.retained, newest=newest, best=best.step if best else None
            )
            meta = {**self._meta(), **best_checkpoint.record(best, values), "step": step}
            with signals.saving():
                self._checkpoints.save(step, state, meta, retain=set if in_row else retain)
            self._applied = applied
        if self._missing:
            saved = max(self.steps(), default=0)
            best.require((), more=False, note=f". Step {saved} is saved, where the same command goes on")

    def steps(self) -> list[int]:
        """The steps of the run's checkpoints, ascending, once the save under way is complete."""
        if self._checkpoints is None:
            return []
        with signals.saving():
            self._checkpoints.wait()
        return self._checkpoints.steps()
