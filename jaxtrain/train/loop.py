"""The one training loop, for every stage. It knows batches, a compiled step and a state, and no objective."""

import dataclasses
import functools
import math
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxtrain import config
from jaxtrain.files import progress
from jaxtrain.train import multihost, slowest_host, spikes, stop
from jaxtrain.train.best_checkpoint import BestCheckpoint
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.checkpoint_saver import CheckpointSaver
from jaxtrain.train.metrics import MetricMean, MetricWriter, SpeedMeter, TrainingProgress
from jaxtrain.train.parallel import Plan
from jaxtrain.train.skipped_steps import COUNTERS, SkippedSteps, TrainingError, WriteBatch
from jaxtrain.types import Batch, Metrics, Params, TrainState

NextBatch = Callable[[TrainState], Batch]  # this host's rows; offline stages ignore the state
Evaluate = Callable[[TrainState], Mapping[str, float]]
Sample = Callable[
    [TrainState, int], tuple[str, Mapping[str, float]]
]  # (state, step) -> text to show, its numbers
_RESUMES = "the same command resumes "

# What the bar shows, in this order; metrics.jsonl and TensorBoard have all.
SHOWN = (
    "loss", "accuracy", "rewards/accuracies", "divergence", "objective/scores", "objective/kl", "tokens_per_s", "mfu",
    "grad_norm",
)  # fmt: skip


@dataclasses.dataclass
class Output:
    """Where a run's results go."""

    writer: MetricWriter
    progress: TrainingProgress
    checkpoints: Checkpoints | None  # None keeps nothing, as under --dry_run
    speed: SpeedMeter
    tokens: int  # tokens in a global batch
    lr: Callable[[int], Any]  # learning rate by number of applied steps
    mean: MetricMean = dataclasses.field(default_factory=MetricMean)
    meta: Callable[[], Mapping[str, Any]] = dict  # what else every checkpoint has
    best: BestCheckpoint | None = None
    write_batch: WriteBatch | None = None  # of a step that is not applied
    unevaluated: bool = (
        False  # whether the first state was saved by a stop before its evaluation was complete
    )
    ended: Callable[[], str] = str  # why the stage has ended before its last step, if it has


def fit(
    state: TrainState,
    frozen: Params,
    plan: Plan,
    step: Callable[..., tuple[TrainState, Metrics]],
    next_batch: NextBatch,
    *,
    run: config.Run,
    out: Output,
    evaluate: Evaluate | None = None,
    sample: Sample | None = None,
    expect: Mapping[str, tuple[float, float]] | None = None,
    finish: Callable[[TrainState], TrainState] | None = None,
) -> tuple[TrainState, bool]:
    """Trains from state.step to run.steps, or until SIGTERM or Ctrl-C. Returns the state and whether it finished.

    Metrics of a step are fetched after the next one is on its way. `expect`, name -> (value, tolerance), is checked on
    the first step of a fresh run, before its update is kept anywhere: what must hold there by construction. `finish`
    acts on the state after the last step, before it is evaluated and saved, and again where a stop came between.
    Raises TrainingError where it does not, or after run.max_skips steps in a row that are not applied.
    """
    done = int(plan.get(state.step))
    waiting: tuple[int, Metrics, Batch] | None = None
    saver = CheckpointSaver(
        out.checkpoints, plan, state, meta=lambda: _meta(out, unevaluated), show=out.progress.print, best=out.best
    )  # fmt: skip
    skips = SkippedSteps(run, out.progress.print, out.write_batch, saver.steps)
    report = functools.partial(_report, plan=plan, run=run, out=out, skips=skips, expect=expect)
    pending, unevaluated = _due(run, done) if out.unevaluated else {}, False
    with stop.stoppable(plan.process[1], out.ended) as until_stopped:
        with until_stopped:
            while pending or done < run.steps:
                if not pending:
                    progress.stop_point(f"step {done}")
                    batch = next_batch(state)
                    state, metrics = step(state, frozen, plan.put(batch))
                    done += 1
                    if waiting:
                        report(*waiting)
                    waiting = (done, metrics, batch)
                    pending = _due(run, done)
                if pending:
                    if waiting:
                        report(*waiting)
                    waiting = None
                    with out.speed.pause():
                        if finish is not None and pending["last"]:
                            state = finish(state)
                        _pause(state, plan, out, saver, done, pending, evaluate, sample)
                    pending = {}
        if waiting:
            report(*waiting)
        unevaluated = bool(pending)
        if stopped := unevaluated or done < run.steps:
            saver.save(done, state)
        at = max(saver.steps(), default=0)
    if stopped and out.checkpoints is not None:
        where = "there" if at == done else f"at step {at}, as none after it was applied"
        out.progress.print(f"stopped at step {done} of {run.steps}; {out.ended() or _RESUMES + where}")
    return state, not stopped


def _meta(out: Output, unevaluated: bool) -> dict[str, Any]:
    """What a checkpoint holds beside the state, once the metrics before it are on the disk."""
    out.writer.sync()
    return {**out.meta(), "mean": out.mean.sums, **({"unevaluated": True} if unevaluated else {})}


def _due(run: config.Run, done: int) -> dict[str, bool]:
    """What comes after a step, and whether it is the last one; empty where nothing does."""
    every = {"eval": run.eval_every, "sample": run.sample_every, "checkpoint": run.checkpoint_every}
    last = done == run.steps
    due = {name: last or (bool(steps) and done % steps == 0) for name, steps in every.items()}
    return {**due, "last": last} if any(due.values()) else {}


def _pause(
    state: TrainState,
    plan: Plan,
    out: Output,
    saver: CheckpointSaver,
    done: int,
    due: Mapping[str, bool],
    evaluate: Evaluate | None,
    sample: Sample | None,
) -> None:
    if due["eval"] and evaluate is not None:
        values = {f"eval/{name}": value for name, value in evaluate(state).items()}
        out.writer.write(done, values)
        saver.evaluated(done, values, more=sample is not None)
        out.progress.print(eval_lines(f"step {done}: held out  ", values))
    if due["sample"] and sample is not None:
        text, values = sample(state, done)
        if values:
            out.writer.write(done, values)
        saver.evaluated(done, values)
        if plan.primary:
            out.writer.text(done, "samples", text)
            out.progress.print(text)
    saver.save(done, state, due=due["checkpoint"], last=due["last"])


def eval_lines(head: str, values: Mapping[str, float]) -> str:
    """Held-out numbers in lines that fit a terminal; the ones looked at first come first."""
    first = ("loss", "perplexity", "accuracy")
    plain = {name.removeprefix("eval/"): value for name, value in values.items()}
    names = [*(name for name in first if name in plain), *(name for name in plain if name not in first)]
    text = "  ".join(f"{name}\N{NO-BREAK SPACE}{plain[name]:.4f}" for name in names)
    lines = textwrap.wrap(head + text, 78, subsequent_indent=" " * len(head), break_on_hyphens=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _report(
    step: int,
    metrics: Metrics,
    batch: Batch,
    *,
    plan: Plan,
    run: config.Run,
    out: Output,
    skips: SkippedSteps,
    expect: Mapping[str, tuple[float, float]] | None,
) -> None:
    with slowest_host.waiting():
        values = plan.get(metrics)
    progress.report(f"step {step}", step=True)
    out.speed.step(out.tokens)
    if expect and step == 1:  # a resumed run does not start where it holds
        check(values, expect)
    if "loss" in values and not values["loss"][1]:
        skips.add_empty(step, values, batch)
    in_row = int(values["skipped_in_row"][0])
    if in_row:
        skips.add(step, in_row, values, batch)
        values = {name: values[name] for name in COUNTERS if name in values}
    out.mean.add(values)
    if step % run.log_every and step != run.steps:
        out.progress.update(step)
        return
    means = out.mean.take()
    skipped = int(values["skipped"][0])
    means |= {name: int(values[name][0]) for name in ("skipped", spikes.TOTAL) if name in values}
    means["lr"] = float(out.lr(step - skipped - 1))
    means |= {**out.speed.take(), **slowest_host.metrics(step, multihost.gather)}
    out.writer.write(step, means)
    out.progress.update(
        step, {name: means[name] for name in SHOWN if not math.isnan(means.get(name, math.nan))}
    )


def check(values: Mapping[str, Any], expect: Mapping[str, tuple[float, float]]) -> None:
    """Raises TrainingError where a first step does not have what it must have by construction, if it has any of it."""
    for name, (wanted, tolerance) in expect.items():
        total, count = values[name]
        mean = float(total) / float(count) if count else wanted
        if not abs(mean - wanted) <= tolerance:
            raise TrainingError(
                f"the first step must have {name} = {wanted:g} ± {tolerance:g}, by construction, and has {mean:g}: "
                "data, masks or parameters are not what the objective takes them for"
            )


def step_seconds(step: Callable, state: TrainState, frozen: Params, batch: Batch, count: int = 3) -> float:
    """Seconds of a step once compiled, the best of `count`; the state is used up."""
    best = math.inf
    for _ in range(count):
        begun = time.perf_counter()
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))
        best = min(best, time.perf_counter() - begun)
    return best
