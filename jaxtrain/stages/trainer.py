"""The training that every stage shares: preflight, loop, evaluation, summary."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import StageConfig
from jaxtrain.files import progress, terminal
from jaxtrain.models import transformer
from jaxtrain.stages import (
    eval_tasks,
    frozen_base,
    next_commands,
    offline,
    run_guards,
    run_summary,
    step_memory,
)
from jaxtrain.stages.session import Session, first_state, of_trained, print_lines
from jaxtrain.train import loop, metrics, optim, preflight, trackers
from jaxtrain.train.checkpoint import Checkpoints, Unusable
from jaxtrain.train.profiler import StepProfiler
from jaxtrain.train.step import evaluate
from jaxtrain.train.time_split import TimeSplit
from jaxtrain.types import Metrics, Objective, Params, TrainState


def evaluate_fn(
    session: Session,
    objective: Objective,
    batches: Any,
    most: int,
    *,
    frozen: Params = (),
    complete: Callable[[TrainState, Any], Any] = lambda state, batch: batch,
) -> loop.Evaluate:
    """An evaluation: means of the objective's metrics over held-out batches, and of token losses the perplexity.

    `complete` gives a batch the columns that depend on the state.
    """
    step = session.plan.step(
        functools.partial(evaluate, objective=of_trained(session, objective)), donate=False
    )

    def means(state: TrainState) -> dict[str, float]:
        mean = metrics.MetricMean()
        params = optim.eval_params(state.params, state.opt_state)
        for i in range(min(len(batches), most or len(batches))):
            progress.stop_point(f"batch {i} of an evaluation")
            batch = session.plan.put(complete(state, batches.batch(i)))
            mean.add(session.plan.get(step(params, (session.base, frozen), batch)))
        # A metric with count 0 is left out, such as the entropy where no row's documents are complete.
        counted = {name for name, (_, count) in mean.sums.items() if count}
        numbers = {name: value for name, value in mean.take().items() if name in counted}
        with np.errstate(over="ignore"):  # infinite, once the loss is above 709
            per_token = {"loss", "accuracy"} <= numbers.keys()
            return {**numbers, "perplexity": float(np.exp(numbers["loss"]))} if per_token else numbers

    return means


class Stage(NamedTuple):
    """What a stage passes to the shared training."""

    objective: Objective  # of all parameters
    next_batch: Callable[[int], loop.NextBatch]  # next_batch(i) yields from batch i on
    table: list[tuple[str, str]]  # what was read, for people
    decode: Callable[[Sequence[int]], str]  # ids as people see them, special tokens written out
    tokens: int  # in a global batch
    score: loop.Evaluate | None = None
    sample: loop.Sample | None = None
    expect: Mapping[str, tuple[float, float]] | None = None  # and the rest as loop.fit and the step have them
    frozen: Params = ()
    carry: Callable[[Any, Metrics], Any] | None = None
    finish: Callable[[TrainState], TrainState] | None = None
    meta: Callable[[], Mapping[str, Any]] = dict  # what its checkpoints hold beside the state
    unusable: Unusable | None = None  # of a stage that needs more than its checkpoints
    ended: Callable[[], str] = str  # as loop.Output has it


def train(cfg: StageConfig, session: Session, stage: Stage) -> TrainState:
    """Preflight, then training from the newest checkpoint or the start.

    A run that is already finished is evaluated and sampled from again.
    """
    plan, primary, started, numbers = session.plan, session.primary, time.perf_counter(), {}
    flops = transformer.flops_per_token(session.arch, cfg.data.seq_len) * stage.tokens
    peak = metrics.peak_flops(plan.device_kind)
    speed = TimeSplit(flops, peak and peak * len(plan.devices))
    frozen, stage = (session.base, stage.frozen), eval_tasks.with_tasks(cfg, session, stage)

    def scored(state: TrainState) -> Mapping[str, float]:
        numbers.update(values := stage.score(state))
        return values

    with Checkpoints(session.path, cfg.run.keep) as saved:
        shapes = step_memory.state_shapes(session, cfg.run.seed)
        with offline.early_step(cfg, session, stage, shapes, saved) as early:
            state, meta = first_state(cfg.run.seed, session, shapes, saved, stage.unusable)
        done = int(plan.get(state.step))
        step, window = early.step if early else run_guards.training_step(cfg, session, stage, meta)
        again = meta.get("unevaluated", False)
        if done >= cfg.run.steps and not again:
            print_lines(
                [f"all {done} steps are done; held-out numbers and samples of the last checkpoint:"],
                primary,
            )
            text = stage.sample(state, done)[0] if stage.sample else ""
            numbers_now = loop.eval_lines("", scored(state)) if stage.score else ""
            print_lines([numbers_now, text, *next_commands.lines(session.path)], primary)
            return state
        best = run_guards.best_checkpoint(cfg, session, stage, saved, state)
        batches = early.batches if early else stage.next_batch(done)
        first = batches(state)
        lines = _preflight(cfg, session, stage, shapes, first, flops)
        print_lines(lines if done == 0 else [f"resuming from step {done} of {cfg.run.steps}"], primary)
        if cfg.run.dry_run:
            return dry_run(cfg, session, step, state, first, stage.expect, frozen)
        with (
            trackers.open_writer(cfg.run.trackers(), session.path, primary) as tracker,
            metrics.MetricWriter(session.path, done, cfg, tracker, primary=primary, again=again) as writer,
            metrics.TrainingProgress(cfg.run.steps, done, show=primary) as bar,
            StepProfiler(step, done, cfg.run.profile_window(), session.path, bar.print, speed.pause) as step,
        ):
            if writer.note:
                bar.print(writer.note)
            rate, mean = optim.schedule(cfg.optim, cfg.run.steps), metrics.MetricMean(meta.get("mean"))
            write = functools.partial(run_guards.write_batch, session, stage)
            out = loop.Output(
                writer, bar, saved, speed, stage.tokens, rate, mean, window, best, write, again, stage.ended
            )  # fmt: skip
            state, finished = loop.fit(
                state, frozen, plan, step, speed.timed("batches", _replayed(first, batches)), run=cfg.run, out=out,
                sample=speed.timed("samples", stage.sample), expect=stage.expect, finish=stage.finish,
                evaluate=speed.timed("evaluation", scored if stage.score else None),
            )  # fmt: skip
    if finished:
        run_summary.show(session, cfg.run.steps, numbers, speed, time.perf_counter() - started, done > 0)
    return state


def _preflight(
    cfg: StageConfig, session: Session, stage: Stage, shapes: TrainState, first: Any, flops: float
) -> list[str]:
    sizes = [*preflight.memory(shapes, first), *step_memory.rows(cfg, session, stage.tokens, shapes)]
    if session.trained.frozen:
        sizes.insert(1, ("frozen parameters", frozen_base.described(session.base, cfg.lora)))
    where = f"{session.plan.name}, {len(session.plan.devices)} x {session.plan.device_kind}"
    where += f", {step_memory.dtype(cfg, session.plan)}"
    rest = [("model FLOPs of a step", f"{flops:.3g}"), ("plan", where), *run_guards.saves(cfg.run)]
    head = "targets of the first rows (⟨not in the loss⟩)"
    rows = preflight.first_rows(first, stage.decode)
    return ["data", *terminal.lines(stage.table), "run", *terminal.lines([*sizes, *rest]), head, *rows]


def _replayed(first: Any, batches: loop.NextBatch) -> loop.NextBatch:
    """`batches`, with the one that was already taken put back in front."""
    taken: Iterator[Any] = iter([first])
    return lambda state: next(taken, None) or batches(state)


def dry_run(
    cfg: StageConfig,
    session: Session,
    step: Callable,
    state: TrainState,
    first: Any,
    expect: Mapping[str, tuple[float, float]] | None,
    frozen: Params = (),
) -> TrainState:
    """Runs one step, checks what must hold by construction, and prints its cost; nothing is saved."""
    batch = session.plan.put(first)
    state, numbers = step(state, frozen, batch)
    values = session.plan.get(numbers)
    loop.check(values, expect or {})
    seconds = loop.step_seconds(step, state, frozen, batch)
    shown = [
        (name, f"{float(total) / max(float(count), 1e-9):.4f}") for name, (total, count) in values.items()
    ]
    cost = [
        ("seconds a step", f"{seconds:.3f}"),
        ("all steps, about", f"{seconds * cfg.run.steps / 60:.1f} min"),
    ]
    print_lines(["first step", *terminal.lines([*shown, *cost])], session.primary)
    return state
