"""What every stage does around its objective: check, open, build, train, tell. Imported once the flags are checked."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.data.tokenizer import load as load_tokenizer
from jaxtrain.generate import sampler
from jaxtrain.models import transformer, zoo
from jaxtrain.train import loop, metrics, optim, parallel, preflight, workdir
from jaxtrain.train.checkpoint import Checkpoints, restore_params
from jaxtrain.train.step import evaluate, init_state, train_step
from jaxtrain.types import LM, Objective, TrainState


class Start(NamedTuple):
    """Where a run's model comes from: the flags alone, or another run."""

    arch: zoo.Arch
    tokenizer: Tokenizer | None  # None: made from the data
    lineage: Mapping[str, Any]
    source: Path | None = None  # the run whose parameters are read
    step: int | None = None


def start(settings: config.Model) -> Start:
    """The model and tokenizer that --model or --init_from name. Raises ConfigError where both do."""
    if not settings.init_from:
        return Start(zoo.resolve(settings.model), None, {})
    if settings.model != type(settings)().model:
        raise ConfigError(
            "--model and --init_from both name a model: --init_from brings its own, leave --model out"
        )
    source, step = workdir.split_step(settings.init_from)
    held = workdir.read_run(source)
    if "arch" not in held:
        raise ConfigError(f"--init_from={source}: the run ended before it had a model")
    lineage = {"run": str(source.absolute()), "stage": held["stage"], "step": step, "parent": held["parent"]}
    return Start(zoo.from_dict(held["arch"]), load_tokenizer(source / "tokenizer"), lineage, source, step)


class Session(NamedTuple):
    """An open run: its folder, plan, model and optimizer."""

    path: Path
    plan: parallel.Plan
    arch: zoo.Arch
    model: LM
    tx: optax.GradientTransformation
    steps: int


def plan_of(cfg: Any) -> parallel.Plan:
    """The plan of the flags."""
    return parallel.make(cfg.run, cfg.data.batch_size, cfg.optim.microbatches)


def session(
    cfg: Any, path: Path, plan: parallel.Plan, begin: Start, tokenizer: Tokenizer, *, causal: bool = True
) -> Session:
    """Builds model and optimizer, and keeps arch and tokenizer in the run's folder for later stages."""
    vocab = begin.arch.vocab or -(-tokenizer.vocab_size // 64) * 64
    if tokenizer.vocab_size > vocab:
        raise ConfigError(
            f"--tokenizer: {tokenizer.vocab_size} tokens, but the model's embedding has {vocab}: "
            "choose a model without a fixed vocabulary, or its own tokenizer"
        )
    arch = replace(begin.arch, vocab=vocab, causal=causal)
    if arch.max_len and cfg.data.seq_len > arch.max_len:
        raise ConfigError(f"--seq_len={cfg.data.seq_len}: the model's context is {arch.max_len}")
    how = transformer.execution(cfg.model, plan.shards, plan.local)
    model = transformer.build(arch, how)
    tx = optim.optimizer(cfg.optim, cfg.run.steps, model.axes)
    if plan.process[0] == 0 and not cfg.run.dry_run:
        workdir.record(path, arch=asdict(arch))
        tokenizer.save(path / "tokenizer")
    return Session(path, plan, arch, model, tx, cfg.run.steps)


def born(run: Session, seed: int) -> Callable[[], TrainState]:
    """A function that makes the state before the first step."""

    def make() -> TrainState:
        key = jax.random.key(seed)
        return init_state(run.model.init(key), run.tx, jax.random.fold_in(key, 1))

    return make


def first_state(cfg: Any, run: Session, begin: Start, saved: Checkpoints) -> tuple[TrainState, dict]:
    """(state, meta): of the newest checkpoint, else of --init_from's parameters, else freshly initialised."""
    make = born(run, cfg.run.seed)
    if saved.steps():
        return saved.restore(run.plan.abstract(make, run.model.axes))
    state = run.plan.init(make, run.model.axes)
    if begin.source is None:
        return state, {}
    shapes = run.plan.abstract(make, run.model.axes).params
    params, _ = restore_params(begin.source, shapes, begin.step)
    # A step from these parameters: the optimizer, and an average of the parameters, start anew from them.
    state = state._replace(params=params)
    opt_state = run.plan.init(lambda: run.tx.init(params), run.model.axes)
    return state._replace(opt_state=opt_state), {}


def evaluator(run: Session, objective: Objective, batches: Any, most: int) -> loop.Evaluate:
    """Means of the objective's metrics over held-out batches, and the perplexity."""
    step = run.plan.step(functools.partial(evaluate, objective=objective), donate=False)

    def means(state: TrainState) -> dict[str, float]:
        mean = metrics.Mean()
        params = optim.evaluated(state.params, state.opt_state)
        for i in range(min(len(batches), most or len(batches))):
            mean.add(run.plan.get(step(params, (), run.plan.put(batches.batch(i)))))
        found = mean.take()
        return {**found, "perplexity": float(np.exp(found["loss"]))} if "loss" in found else found

    return means


def continuations(
    run: Session, tokenizer: Tokenizer, prompts: list[list[int]], max_new: int, seed: int
) -> loop.Sample:
    """Samples that continue token prompts, written to samples/STEP.txt and returned as text."""
    rows = prompts[: len(prompts) // run.plan.shards * run.plan.shards] or prompts * run.plan.shards
    draw = run.plan.rows(sampler.sampler(run.model, max_new=max_new, end=tokenizer.eos))
    here = slice(
        *(np.array([run.plan.process[0], run.plan.process[0] + 1]) * (len(rows) // run.plan.process[1]))
    )

    def sample(state: TrainState, step: int) -> str:
        batch = {name: x[here] for name, x in sampler.prompts(rows, seed).items()}
        params = optim.evaluated(state.params, state.opt_state)
        done = run.plan.get(draw(params, (), run.plan.put(batch)))
        written = sampler.texts(done, tokenizer.decode)
        text = "\n".join(
            f"sample {i}: {tokenizer.decode(prompt)!r}\n     → {new!r}"
            for i, (prompt, new) in enumerate(zip(rows, written, strict=True))
        )
        if run.plan.process[0] == 0:
            folder = run.path / "samples"
            folder.mkdir(exist_ok=True)
            (folder / f"{step:08d}.txt").write_text(text + "\n", encoding="utf-8")
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
    if primary:
        print("\n".join(lines), flush=True)


def train(
    cfg: Any,
    run: Session,
    begin: Start,
    objective: Objective,
    next_batch: Callable[[int], loop.NextBatch],
    *,
    table: list[tuple[str, str]],
    decode: Callable[..., str],
    tokens: int,
    eval_batches: Any = None,
    sample: loop.Sample | None = None,
    expect: Mapping[str, tuple[float, float]] | None = None,
) -> TrainState:
    """Preflight, then training from the newest checkpoint or the start. `next_batch(i)` yields from batch i on."""
    plan, flops = run.plan, transformer.flops_per_token(run.arch, cfg.data.seq_len) * tokens
    peak = metrics.peak_flops(jax.devices()[0].device_kind)
    whole = peak and peak * jax.device_count()
    step = plan.step(
        functools.partial(train_step, objective=objective, tx=run.tx, microbatches=cfg.optim.microbatches)
    )
    with contextlib.ExitStack() as stack:
        saved = Checkpoints(run.path, cfg.run.keep)
        state, meta = first_state(cfg, run, begin, saved)
        done = int(plan.get(state.step))
        batches = next_batch(done)
        first = batches(state)
        sizes = preflight.memory(run.plan.abstract(born(run, cfg.run.seed), run.model.axes), first)
        where = f"{plan.name}, {jax.device_count()} x {jax.devices()[0].device_kind}"
        rest = [("model FLOPs of a step", f"{flops:.3g}"), ("plan", where)]
        lines = ["data", *preflight.lines(table), "run", *preflight.lines([*sizes, *rest])]
        lines += [
            "targets of the first rows (what is not in the loss in ⟨⟩)",
            *preflight.first_rows(first, decode),
        ]
        show(lines if done == 0 else [f"resuming from step {done} of {cfg.run.steps}"], plan.process[0] == 0)
        if cfg.run.dry_run:
            return dry_run(cfg, run, step, state, first, expect)
        stack.enter_context(saved)
        writer = stack.enter_context(metrics.Writer(run.path, done, primary=plan.process[0] == 0))
        bar = stack.enter_context(metrics.Progress(cfg.run.steps, done, show=plan.process[0] == 0))
        if writer.note:
            bar.print(writer.note)
        out = loop.Output(
            writer,
            bar,
            saved,
            metrics.Speed(flops, whole),
            tokens,
            optim.schedule(cfg.optim, cfg.run.steps),
            metrics.Mean(meta.get("mean")),
        )
        score = evaluator(run, objective, eval_batches, cfg.run.eval_batches) if eval_batches else None
        state, _ = loop.fit(
            state, (), plan, step, _replayed(first, batches), run=cfg.run, out=out, evaluate=score, sample=sample,
            expect=expect,
        )  # fmt: skip
    return state


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
) -> TrainState:
    """One step checked against what must hold, and its cost; nothing is kept."""
    batch = run.plan.put(first)
    state, found = step(state, (), batch)
    values = run.plan.get(found)
    loop.check(values, expect or {})
    seconds = loop.measured(step, state, (), batch)
    shown = [
        (name, f"{float(total) / max(float(count), 1e-9):.4f}") for name, (total, count) in values.items()
    ]
    cost = [
        ("seconds a step", f"{seconds:.3f}"),
        ("all steps, about", f"{seconds * cfg.run.steps / 60:.1f} min"),
    ]
    show(["first step", *preflight.lines([*shown, *cost])], run.plan.process[0] == 0)
    return state
