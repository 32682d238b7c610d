"""What every stage does around its objective: open, build, train, tell. Imported once the flags are checked."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.begin import Start
from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.generate import sampler
from jaxtrain.models import transformer, zoo
from jaxtrain.train import loop, metrics, optim, parallel, preflight, workdir
from jaxtrain.train.checkpoint import Checkpoints, restore_params
from jaxtrain.train.step import evaluate, init_state, train_step
from jaxtrain.types import LM, Metrics, Objective, Params, TrainState

PROMPTS, LONGEST = 8, 24  # prompts sampled from, and most tokens of one


class Session(NamedTuple):
    """An open run: its folder, plan, model and optimizer."""

    path: Path
    plan: parallel.Plan
    arch: zoo.Arch
    model: LM
    tx: optax.GradientTransformation
    primary: bool  # whether this process is the one that writes and prints
    extra: Any = ()  # the first TrainState.extra of a stage that carries one


def plan_of(cfg: Any) -> parallel.Plan:
    """The plan of the flags."""
    return parallel.make(cfg.run, cfg.data.batch_size, cfg.optim.microbatches)


@contextlib.contextmanager
def opened(cfg: Any, stage: str, start: Start, plan: parallel.Plan) -> Iterator[Path]:
    """The run's folder, owned until the context ends; under --dry_run one that is thrown away.

    Where the run fails before its first step, a folder made for it goes again, so that a corrected command can use
    the name.
    """
    if cfg.run.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    folder, primary = config.workdir(cfg, stage).expanduser().absolute(), plan.process[0] == 0
    existed, fresh = folder.exists(), not (folder / workdir.CONFIG).exists()
    with workdir.open_workdir(folder, cfg, stage, lineage=start.lineage, primary=primary) as path:
        try:
            yield path
        except BaseException:
            if primary and fresh:
                _unmake(path, keep=existed)
            raise


def _unmake(path: Path, keep: bool) -> None:
    if {entry.name for entry in path.iterdir()} - {workdir.CONFIG, workdir.LOCK, "tokenizer"}:
        return  # it has trained
    for file in [*path.glob("tokenizer/*"), path / workdir.CONFIG, path / workdir.LOCK]:
        file.unlink(missing_ok=True)
    for folder in [*path.glob("tokenizer"), *([] if keep else [path])]:
        folder.rmdir()


def session(
    cfg: Any,
    path: Path,
    plan: parallel.Plan,
    start: Start,
    tokenizer: Tokenizer,
    fingerprints: Mapping[str, str],
) -> Session:
    """Builds model and optimizer, and keeps arch, tokenizer and the data's fingerprints in the run's folder."""
    vocab = start.arch.vocab or -(-tokenizer.vocab_size // 64) * 64
    if tokenizer.vocab_size > vocab:
        raise ConfigError(
            f"--tokenizer: {tokenizer.vocab_size} tokens, but the model's embedding has {vocab}: "
            "choose a model without a fixed vocabulary, or its own tokenizer"
        )
    arch, primary = replace(start.arch, vocab=vocab), plan.process[0] == 0
    model = transformer.build(arch, transformer.execution(cfg.model, plan.shards, plan.local))
    tx = optim.optimizer(cfg.optim, cfg.run.steps, model.axes)
    if primary and not cfg.run.dry_run:
        workdir.record_data(path, fingerprints)
        workdir.record(path, arch=asdict(arch))
        tokenizer.save(path / "tokenizer")
    return Session(path, plan, arch, model, tx, primary)


def born(run: Session, seed: int) -> Callable[[], TrainState]:
    """A function that makes the state before the first step."""

    def make() -> TrainState:
        key = jax.random.key(seed)
        return init_state(run.model.init(key), run.tx, jax.random.fold_in(key, 1), run.extra)

    return make


def first_state(cfg: Any, run: Session, start: Start, saved: Checkpoints) -> tuple[TrainState, dict]:
    """(state, meta): of the newest checkpoint, else of --init_from's parameters, else freshly initialised."""
    make = born(run, cfg.run.seed)
    if saved.steps():
        return saved.restore(run.plan.abstract(make, run.model.axes))
    state = run.plan.init(make, run.model.axes)
    if start.source is None:
        return state, {}
    shapes = run.plan.abstract(make, run.model.axes).params
    params, _ = restore_params(start.source, shapes, start.step, part=start.part)
    # A step from these parameters: the optimizer, and an average of the parameters, start anew from them.
    state = state._replace(params=params)
    opt_state = run.plan.init(lambda: run.tx.init(params), run.model.axes)
    return state._replace(opt_state=opt_state), {}


def evaluator(
    run: Session, objective: Objective, batches: Any, most: int, frozen: Params = ()
) -> loop.Evaluate:
    """Means of the objective's metrics over held-out batches, and the perplexity."""
    step = run.plan.step(functools.partial(evaluate, objective=objective), donate=False)

    def means(state: TrainState) -> dict[str, float]:
        mean = metrics.Mean()
        params = optim.evaluated(state.params, state.opt_state)
        for i in range(min(len(batches), most or len(batches))):
            mean.add(run.plan.get(step(params, frozen, run.plan.put(batches.batch(i)))))
        # What nothing was counted for is not told, as the entropy where no row's documents are whole.
        counted = {name for name, (_, count) in mean.sums.items() if count}
        found = {name: value for name, value in mean.take().items() if name in counted}
        with np.errstate(over="ignore"):  # infinite, once the loss is above 709
            return {**found, "perplexity": float(np.exp(found["loss"]))} if "loss" in found else found

    return means


def openings(plan: parallel.Plan, batch: Mapping[str, np.ndarray]) -> list[list[int]]:
    """Prompts: the first half, at most LONGEST tokens, of the first document of each row, the same on all hosts."""
    whole = plan.get(plan.put({name: batch[name] for name in ("tokens", "segments")}))
    tokens, segments = (whole[name].reshape(-1, whole[name].shape[-1]) for name in ("tokens", "segments"))
    sizes = (segments == 1).sum(-1)
    cut = [row[: min(LONGEST, (n + 1) // 2)].tolist() for row, n in zip(tokens, sizes, strict=True) if n]
    return cut[:PROMPTS]


def continuations(
    run: Session, tokenizer: Tokenizer, prompts: list[list[int]], max_new: int, seed: int
) -> loop.Sample:
    """Samples that continue token prompts, written to samples/STEP.txt and returned as text."""
    shards, (index, hosts) = run.plan.shards, run.plan.process
    rows = [prompts[i % len(prompts)] for i in range(-(-len(prompts) // shards) * shards)]
    here = slice(index * len(rows) // hosts, (index + 1) * len(rows) // hosts)
    if run.arch.max_len:
        max_new = min(max_new, run.arch.max_len - max(map(len, rows)))
    draw = run.plan.rows(sampler.sampler(run.model, max_new=max_new, end=tokenizer.eos))

    def sample(state: TrainState, step: int) -> str:
        batch = {name: x[here] for name, x in sampler.prompts(rows, seed).items()}
        params = optim.evaluated(state.params, state.opt_state)
        done = run.plan.get(draw(params, (), run.plan.put(batch)))
        written = sampler.texts(done, tokenizer.decode)
        lines = [f"samples at step {step}: prompt▸continuation, ⏎ where it ended by itself"]
        for i, (prompt, new) in enumerate(zip(prompts, written[: len(prompts)], strict=True)):
            ended = tokenizer.eos in done.tokens[i, : done.lengths[i]]
            text = f"{tokenizer.decode(prompt)}▸{new}{preflight.END if ended else ' …'}"
            lines += ["", *preflight.wrapped(text, "  │ ")]
        text = "\n".join(lines) + "\n"
        if run.primary:
            folder = run.path / "samples"
            folder.mkdir(exist_ok=True)
            (folder / f"{step:08d}.txt").write_text(text, encoding="utf-8")
        return text

    return sample


def offline(iterate: Callable[[int], Iterator[Any]]) -> Callable[[int], loop.NextBatch]:
    """Batches that do not depend on the state, from `iterate(first batch)`."""

    def begin(first: int) -> loop.NextBatch:
        batches = iterate(first)
        return lambda state: next(batches)

    return begin


def show(lines: list[str], primary: bool) -> None:
    """Prints on the first host alone."""
    metrics.Progress(0, show=primary).print("\n".join(lines))


def train(
    cfg: Any,
    run: Session,
    start: Start,
    objective: Objective,
    next_batch: Callable[[int], loop.NextBatch],
    *,
    table: list[tuple[str, str]],
    decode: Callable[..., str],
    tokens: int,
    eval_batches: Any = None,
    sample: loop.Sample | None = None,
    expect: Mapping[str, tuple[float, float]] | None = None,
    frozen: Params = (),
    carry: Callable[[Any, Metrics], Any] | None = None,
) -> TrainState:
    """Preflight, then training from the newest checkpoint or the start. `next_batch(i)` yields from batch i on.

    `frozen`, `expect` and `carry` are those of the objective, the loop and the step. A run that is
    already finished is evaluated and sampled from again.
    """
    plan, began, found = run.plan, time.perf_counter(), {}
    flops = transformer.flops_per_token(run.arch, cfg.data.seq_len) * tokens
    peak = metrics.peak_flops(jax.devices()[0].device_kind)
    speed = metrics.Speed(flops, peak and peak * jax.device_count())
    step = plan.step(
        functools.partial(
            train_step, objective=objective, tx=run.tx, microbatches=cfg.optim.microbatches, carry=carry
        )
    )
    means = evaluator(run, objective, eval_batches, cfg.run.eval_batches, frozen) if eval_batches else None

    def score(state: TrainState) -> dict[str, float]:
        found.update(means(state))
        return found

    with Checkpoints(run.path, cfg.run.keep) as saved:
        state, meta = first_state(cfg, run, start, saved)
        done = int(plan.get(state.step))
        if done >= cfg.run.steps:
            show(
                [f"all {done} steps are done; held-out numbers and samples of the last checkpoint:"],
                run.primary,
            )
            text = sample(state, done) if sample else ""
            show([loop.held_out("", score(state)) if means else "", text], run.primary)
            return state
        batches = next_batch(done)
        first = batches(state)
        told = _preflight(cfg, run, first, table, decode, flops)
        show(told if done == 0 else [f"resuming from step {done} of {cfg.run.steps}"], run.primary)
        if cfg.run.dry_run:
            return dry_run(cfg, run, step, state, first, expect, frozen)
        with (
            metrics.Writer(run.path, done, primary=run.primary) as writer,
            metrics.Progress(cfg.run.steps, done, show=run.primary) as bar,
        ):
            if writer.note:
                bar.print(writer.note)
            rate, mean = optim.schedule(cfg.optim, cfg.run.steps), metrics.Mean(meta.get("mean"))
            out = loop.Output(writer, bar, saved, speed, tokens, rate, mean)
            state, finished = loop.fit(
                state, frozen, plan, step, _replayed(first, batches), run=cfg.run, out=out,
                evaluate=score if means else None, sample=sample, expect=expect,
            )  # fmt: skip
    if finished:
        show(summary(run, cfg.run.steps, found, speed.total(), time.perf_counter() - began), run.primary)
    return state


def _preflight(
    cfg: Any, run: Session, first: Any, table: list[tuple[str, str]], decode: Callable[..., str], flops: float
) -> list[str]:
    sizes = preflight.memory(run.plan.abstract(born(run, cfg.run.seed), run.model.axes), first)
    where = f"{run.plan.name}, {jax.device_count()} x {jax.devices()[0].device_kind}"
    rest = [("model FLOPs of a step", f"{flops:.3g}"), ("plan", where)]
    head = "targets of the first rows (⟨not in the loss⟩, ⏎ ends a document)"
    rows = preflight.first_rows(first, decode)
    return ["data", *preflight.lines(table), "run", *preflight.lines([*sizes, *rest]), head, *rows]


def summary(
    run: Session, steps: int, found: Mapping[str, float], speed: Mapping[str, float], seconds: float
) -> list[str]:
    """What a finished run came to, in a few lines."""
    said = {
        "held-out loss": ("{loss:.4f}, perplexity {perplexity:.2f}", "loss"),
        "bits per byte": ("{bits_per_byte:.4f}", "bits_per_byte"),
        "above entropy": ("{bits_per_byte_above_entropy:.4f}", "bits_per_byte_above_entropy"),
    }
    fast = f", {speed['tokens_per_s']:,.0f} tokens/s" if speed else ""
    table = [
        *((name, text.format(**found)) for name, (text, needs) in said.items() if needs in found),
        ("time", f"{seconds / 60:.1f} min{fast}"),
        ("checkpoint", str(run.path / "checkpoints" / str(steps))),
    ]
    return [f"finished {steps} steps", *preflight.lines(table)]


def _replayed(first: Any, batches: loop.NextBatch) -> loop.NextBatch:
    """`batches`, with the one that was already taken put back in front."""
    taken: Iterator[Any] = iter([first])
    return lambda state: next(taken, None) or batches(state)


def dry_run(
    cfg: Any,
    run: Session,
    step: Callable,
    state: TrainState,
    first: Any,
    expect: Mapping[str, tuple[float, float]] | None,
    frozen: Params,
) -> TrainState:
    """One step checked against what must hold, and its cost; nothing is kept."""
    batch = run.plan.put(first)
    state, found = step(state, frozen, batch)
    values = run.plan.get(found)
    loop.check(values, expect or {})
    seconds = loop.measured(step, state, frozen, batch)
    shown = [
        (name, f"{float(total) / max(float(count), 1e-9):.4f}") for name, (total, count) in values.items()
    ]
    cost = [
        ("seconds a step", f"{seconds:.3f}"),
        ("all steps, about", f"{seconds * cfg.run.steps / 60:.1f} min"),
    ]
    show(["first step", *preflight.lines([*shown, *cost])], run.primary)
    return state
