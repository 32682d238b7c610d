"""Batches that do not depend on the state: their step is compiled while the first state is made or read.

The compiler needs the state's shapes alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

from jaxtrain.config import StageConfig
from jaxtrain.stages import run_guards
from jaxtrain.stages.session import Session
from jaxtrain.train import loop
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.types import TrainState


class OfflineBatches(NamedTuple):
    """A Stage's next_batch: from `iterate(first batch)`."""

    iterate: Callable[[int], Iterator[Any]]

    def __call__(self, first: int) -> loop.NextBatch:
        return _in_turn(self.iterate(first))


class EarlyStep(NamedTuple):
    """A fresh run's step before its state, and the batches that it was compiled for."""

    step: tuple[Callable, Callable[[], Any]]  # as run_guards.training_step gives them
    batches: loop.NextBatch


def _in_turn(batches: Iterator[Any]) -> loop.NextBatch:
    return lambda state: next(batches)


@contextlib.contextmanager
def early_step(
    cfg: StageConfig, session: Session, stage: Any, shapes: TrainState, saved: Checkpoints
) -> Iterator[EarlyStep | None]:
    """The step of a fresh run, compiled in a thread until the context ends; None where it waits for the state.

    A resumed run's step has what its checkpoint says, and a stage on policy makes batches with the state. A GPU's
    compiler times its kernels on the device, where the program that makes the state would disturb it.
    """
    plan, offline = session.plan, isinstance(stage.next_batch, OfflineBatches)
    if not offline or saved.steps() or cfg.run.skip_spikes or plan.platform == "gpu":
        yield None
        return
    batches = stage.next_batch.iterate(0)
    first = next(batches)
    step, window = run_guards.training_step(cfg, session, stage, {})
    args = shapes, (session.base, stage.frozen), plan.put(first)
    with ThreadPoolExecutor(1, "compile") as thread:
        # An error of the compiler is left to the step's first call, which has it again.
        thread.submit(lambda: step.lower(*args).compile())
        yield EarlyStep((step, window), _in_turn(chain([first], batches)))
