"""What guards a run against its own steps: the rule on spikes, the best checkpoint, the batches not applied."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import Run, StageConfig
from jaxtrain.stages import eval_tasks
from jaxtrain.stages.session import Session, gather_rows, of_trained, print_lines
from jaxtrain.train import bad_batches, spikes
from jaxtrain.train.best_checkpoint import BestCheckpoint, resume
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.step import train_step
from jaxtrain.types import Metrics, TrainState


def training_step(
    cfg: StageConfig, session: Session, stage: Any, meta: Mapping[str, Any]
) -> tuple[Callable, Callable[[], Mapping[str, Any]]]:
    """(the compiled step, a function that returns what a checkpoint holds of it and the stage beside the state)."""
    step = functools.partial(
        train_step, objective=of_trained(session, stage.objective), tx=session.tx,
        microbatches=cfg.optim.microbatches, carry=stage.carry,
    )  # fmt: skip
    if not cfg.run.skip_spikes:
        return session.plan.step(step), stage.meta
    guard = spikes.SpikeGuard(session.plan, step, cfg.run.skip_spikes, meta.get("spikes"))
    return guard, lambda: {**stage.meta(), "spikes": guard.record()}


def best_checkpoint(
    cfg: StageConfig, session: Session, stage: Any, saved: Checkpoints, state: TrainState
) -> BestCheckpoint | None:
    """What --keep_best names. A metric that no evaluation of the run has had must be one of an evaluation now."""
    # Later checkpoints are of an attempt that this run does not go on from.
    done = int(session.plan.get(state.step))
    best = resume(cfg.run.keep_best, saved.folder, [step for step in saved.steps() if step <= done])
    if best is None:
        return None
    if best.metric not in best.names:
        names = eval_tasks.metric_names(stage.score, state) if stage.score else ()
        best.require((f"eval/{name}" for name in names), more=stage.sample is not None)
    so_far = f"; so far step {best.step}, {best.value:.6g}" if best.step else ""
    which = "highest" if best.mode == "max" else "lowest"
    print_lines([f"the checkpoint with the {which} {best.metric} is kept{so_far}"], session.primary)
    return best


def write_batch(
    session: Session, stage: Any, step: int, batch: Any, why: str, values: Metrics
) -> Path | None:
    """Writes a step's batch to the workdir, the rows of all hosts (bad_batches.write_batch)."""
    rows = gather_rows(session.plan, batch)
    if not session.primary:  # which writes and prints
        return session.path
    return bad_batches.write_batch(session.path, step, rows, stage.decode, why, values)


def saves(run: Run) -> list[tuple[str, str]]:
    """A row of the preflight's table where no state is saved before the last step: a killed run starts again."""
    if 0 < run.checkpoint_every < run.steps:
        return []
    every = f"--checkpoint_every={run.checkpoint_every}"
    return [
        (
            "checkpoints",
            f"at the end alone ({every}, --steps={run.steps}): killed before it, the run starts again",
        )
    ]
