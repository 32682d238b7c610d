"""The one training loop, for every stage. It knows batches, a compiled step and a state, and no objective."""

import contextlib
import dataclasses
import math
import signal
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxtrain import config
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.metrics import MetricMean, MetricWriter, SpeedMeter, TrainingProgress
from jaxtrain.train.parallel import Plan
from jaxtrain.types import Batch, Metrics, Params, TrainState

NextBatch = Callable[[TrainState], Batch]  # this host's rows; offline stages ignore the state
Evaluate = Callable[[TrainState], Mapping[str, float]]
Sample = Callable[
    [TrainState, int], tuple[str, Mapping[str, float]]
]  # (state, step) -> text to show, its numbers

# What the bar shows, in this order; metrics.jsonl and TensorBoard have all.
SHOWN = (
    "loss", "accuracy", "rewards/accuracies", "divergence", "objective/scores", "objective/kl", "tokens_per_s", "mfu",
    "grad_norm",
)  # fmt: skip


class TrainingError(config.Failure):
    """Training cannot go on: the message says since when and what to do. Checkpoints are left as they are."""


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
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # kept in every checkpoint


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
    acts on the state once, after the last step and before it is evaluated and saved. Raises
    TrainingError where it does not, or after run.max_skips steps in a row that are not finite.
    """
    done = int(plan.get(state.step))
    waiting: tuple[int, Metrics] | None = None
    fresh = done == 0
    with _stoppable(plan.process[1]) as stopping:
        while done < run.steps and not stopping(done):
            state, metrics = step(state, frozen, plan.put(next_batch(state)))
            done += 1
            if waiting:
                _report(*waiting, plan, run, out, expect if fresh else None)
            waiting = (done, metrics)
            last = done == run.steps
            if last and finish is not None:
                state = finish(state)
            due = {name: _due(done, every, last) for name, every in _cadence(run).items()}
            if any(due.values()):
                _report(*waiting, plan, run, out, expect if fresh else None)
                waiting = None
                with out.speed.pause():
                    _pause(state, plan, run, out, done, due, evaluate, sample)
    if waiting:
        _report(*waiting, plan, run, out, expect if fresh else None)
    if done < run.steps and out.checkpoints is not None:
        _save(state, out, done)
        out.checkpoints.wait()
        out.progress.print(f"stopped at step {done} of {run.steps}; the same command resumes there")
    return state, done >= run.steps


def _cadence(run: config.Run) -> dict[str, int]:
    return {"eval": run.eval_every, "sample": run.sample_every, "checkpoint": run.checkpoint_every}


def _due(done: int, every: int, last: bool) -> bool:
    return last or (bool(every) and done % every == 0)


def _pause(
    state: TrainState,
    plan: Plan,
    run: config.Run,
    out: Output,
    done: int,
    due: Mapping[str, bool],
    evaluate: Evaluate | None,
    sample: Sample | None,
) -> None:
    if due["eval"] and evaluate is not None:
        values = {f"eval/{name}": value for name, value in evaluate(state).items()}
        out.writer.write(done, values)
        out.progress.print(eval_lines(f"step {done}: held out  ", values))
    if due["sample"] and sample is not None:
        text, values = sample(state, done)
        if values:
            out.writer.write(done, values)
        if plan.primary:
            out.writer.text(done, "samples", text)
            out.progress.print(text)
    if due["checkpoint"] and out.checkpoints is not None:
        _save(state, out, done)


def eval_lines(head: str, values: Mapping[str, float]) -> str:
    """Held-out numbers in lines that fit a terminal; the ones looked at first come first."""
    first = ("loss", "perplexity", "accuracy")
    plain = {name.removeprefix("eval/"): value for name, value in values.items()}
    names = [*(name for name in first if name in plain), *(name for name in plain if name not in first)]
    text = "  ".join(f"{name}\N{NO-BREAK SPACE}{plain[name]:.4f}" for name in names)
    lines = textwrap.wrap(head + text, 78, subsequent_indent=" " * len(head), break_on_hyphens=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _save(state: TrainState, out: Output, done: int) -> None:
    out.writer.sync()
    out.checkpoints.save(done, state, {**out.meta, "step": done, "mean": out.mean.sums})


def _report(
    step: int,
    metrics: Metrics,
    plan: Plan,
    run: config.Run,
    out: Output,
    expect: Mapping[str, tuple[float, float]] | None,
) -> None:
    values = plan.get(metrics)
    out.speed.step(out.tokens)
    if expect and step == 1:
        check(values, expect)
    in_row = int(values["skipped_in_row"][0])
    if in_row:
        _skipped(step, in_row, run, out)
        values = {name: values[name] for name in ("skipped", "skipped_in_row")}
    out.mean.add(values)
    if step % run.log_every and step != run.steps:
        out.progress.update(step)
        return
    means = out.mean.take()
    skipped = int(values["skipped"][0])
    means["skipped"] = skipped
    means["lr"] = float(out.lr(step - skipped - 1))
    means |= out.speed.take()
    out.writer.write(step, means)
    out.progress.update(step, {name: means[name] for name in SHOWN if name in means})


def _skipped(step: int, in_row: int, run: config.Run, out: Output) -> None:
    out.progress.print(f"step {step}: loss or gradient is not finite, not applied (batch {step - 1})")
    if in_row >= run.max_skips:
        raise TrainingError(
            f"{in_row} steps in a row, batches {step - in_row} to {step - 1}, had a loss or gradient that is not "
            "finite. Checkpoints are as they were, and the same command meets the same steps again: look at these "
            "batches, or train with a lower --lr in another --workdir"
        )


def check(values: Mapping[str, Any], expect: Mapping[str, tuple[float, float]]) -> None:
    """Raises TrainingError where a first step does not have what it must have by construction."""
    for name, (wanted, tolerance) in expect.items():
        total, count = values[name]
        mean = float(total) / float(count) if count else math.nan
        if not abs(mean - wanted) <= tolerance:
            raise TrainingError(
                f"the first step must have {name} = {wanted:g} ± {tolerance:g}, by construction, and has {mean:g}: "
                "data, masks or parameters are not what the objective takes them for"
            )


@contextlib.contextmanager
def _stoppable(processes: int) -> Iterator[Callable[[int], bool]]:
    """Yields a function that says whether to stop; the first SIGTERM or Ctrl-C asks for it, the second kills.

    With several processes jax's own notifier owns SIGTERM, and all of them stop at the same step.
    """
    if processes > 1:
        from jax.experimental import multihost_utils

        yield lambda step: multihost_utils.reached_preemption_sync_point(step)
        return
    signals: list[int] = []
    before = {}

    def ask(number: int, frame: Any) -> None:
        signals.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are the caller's
        before = {}
    try:
        yield lambda step: bool(signals)
    finally:
        if not signals:
            for each, handler in before.items():
                signal.signal(each, handler)


def step_seconds(step: Callable, state: TrainState, frozen: Params, batch: Batch, count: int = 3) -> float:
    """Seconds of a step once compiled, the best of `count`; the state is used up."""
    best = math.inf
    for _ in range(count):
        begun = time.perf_counter()
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready((state, metrics))
        best = min(best, time.perf_counter() - begun)
    return best
