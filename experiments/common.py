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

from experiments import weights
from experiments.begin import Start
from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import terminal
from jaxtrain.models import transformer, zoo
from jaxtrain.train import loop, metrics, optim, parallel, preflight, workdir
from jaxtrain.train.checkpoint import Checkpoints
from jaxtrain.train.step import evaluate, init_state, train_step
from jaxtrain.types import LM, ActorCritic, Batch, Key, Loss, Metrics, Objective, Params, TrainState

POLICY = "policy"  # branch of an ActorCritic's parameters


class Session(NamedTuple):
    """An open run: its folder, plan, model and optimizer, and what of the model it trains."""

    path: Path
    plan: parallel.Plan
    arch: zoo.Arch
    model: LM
    tx: optax.GradientTransformation
    primary: bool  # whether this process is the one that writes and prints
    start: Start
    trained: weights.Trained
    heads: Any = None  # a Scorer or ActorCritic, of a stage that trains more than a language model
    given: Callable[[], tuple] = tuple  # further arguments of heads.grow
    base: Params = ()  # what adapters are laid over
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
    *,
    heads: Callable[[LM], Any] | None = None,
    given: Callable[[], tuple] = tuple,
    rates: Mapping[str, float] | None = None,
    noise: float = 0.0,
) -> Session:
    """Builds model and optimizer, and keeps arch, tokenizer and the data's fingerprints in the run's folder.

    `heads` makes a Scorer or an ActorCritic of the model, which is trained instead; `given()` are arguments of its
    `grow` after the model's parameters and a key. `rates` are the optimizer's, `noise` is that of
    models/transformer.py's Execution.
    """
    vocab = start.arch.vocab or -(-tokenizer.vocab_size // 64) * 64
    if tokenizer.vocab_size > vocab:
        raise ConfigError(
            f"--tokenizer: {tokenizer.vocab_size} tokens, but the model's embedding has {vocab}: "
            "choose a model without a fixed vocabulary, or its own tokenizer"
        )
    arch, primary = replace(start.arch, vocab=vocab), plan.process[0] == 0
    how = transformer.execution(cfg.model, plan.shards, plan.local)
    model = transformer.build(arch, replace(how, noise=noise))
    made = heads(model) if heads else None
    trained = weights.trained(made.axes if made else model.axes, cfg.lora)
    tx = optim.optimizer(cfg.optim, cfg.run.steps, trained.axes, rates or {})
    if primary and not cfg.run.dry_run:
        workdir.record_data(path, fingerprints)
        workdir.record(path, arch=asdict(arch), branch=POLICY if isinstance(made, ActorCritic) else "")
        tokenizer.save(path / "tokenizer")
    run = Session(path, plan, arch, model, tx, primary, _pinned(path, start), trained, made, given)
    return run._replace(base=whole(run, cfg.run.seed)) if cfg.lora.lora_rank else run


def _pinned(path: Path, start: Start) -> Start:
    """The start at the step of its parent that config.json names: the parent may have trained on since."""
    if not start.origins or start.origins[-1].hf or not (path / workdir.CONFIG).exists():
        return start
    *before, last = start.origins
    _, step = workdir.split_step(workdir.read_run(path)["parent"]["origin"])
    return start._replace(origins=(*before, last if step is None else last._replace(step=step)))


def pinned(path: Path, name: str, text: str) -> str:
    """Another run that this one leans on, as WORKDIR@STEP: what config.json has under `name`, else its newest step."""
    held = workdir.read_run(path) if (path / workdir.CONFIG).exists() else {}
    if held.get(name):
        return held[name]
    if text.startswith("hf:"):
        return text
    source, step = workdir.split_step(text)
    return f"{source.absolute()}@{step or workdir.newest_step(source)}"


def speaker(run: Session) -> Session:
    """The session as those see it who sample: of an ActorCritic the policy alone."""
    if not isinstance(run.heads, ActorCritic):
        return run
    whole = run.trained.whole
    return run._replace(trained=run.trained._replace(whole=lambda part, base: whole(part, base)[POLICY]))


def reference(run: Session, seed: int) -> Params:
    """The language model that training starts from, adapters merged."""
    if not run.base:
        return weights.starting(run.plan, run.start, run.model, seed)
    return run.base[POLICY] if isinstance(run.heads, ActorCritic) else run.base


def whole(run: Session, seed: int) -> Params:
    """The whole parameters that training starts from; adapters' base is at hand."""
    if run.base:
        return run.base
    params = weights.starting(run.plan, run.start, run.model, seed)
    if run.heads is None:
        return params
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return run.plan.init(run.heads.grow, run.heads.axes, params, key, *run.given())


def born(run: Session, seed: int) -> Callable[[], TrainState]:
    """A function that makes the state before the first step of a model that starts from nothing."""

    def make() -> TrainState:
        key = jax.random.key(seed)
        params = run.model.init(key)
        if run.heads is not None:
            params = run.heads.grow(params, jax.random.fold_in(key, 2))
        return _state(run, run.trained.part(params, jax.random.fold_in(key, 3)), seed)

    return make


def _state(run: Session, params: Params, seed: int) -> TrainState:
    return init_state(params, run.tx, jax.random.fold_in(jax.random.key(seed), 1), run.extra)


def first_state(cfg: Any, run: Session, saved: Checkpoints) -> tuple[TrainState, dict]:
    """(state, meta): of the newest checkpoint, else of the parameters that --init_from names, else a fresh one."""
    seed, axes = cfg.run.seed, run.trained.axes
    make = born(run, seed)
    if saved.steps():
        return saved.restore(run.plan.abstract(make, axes))
    if not run.start.origins:
        return run.plan.init(make, axes), {}
    params = first_part(run, whole(run, seed), seed)
    return run.plan.init(functools.partial(_state, run, seed=seed), axes, params), {}


def first_part(run: Session, params: Params, seed: int) -> Params:
    """What is trained of whole parameters, as it is before the first step."""
    if not run.trained.frozen:
        return params
    key = jax.random.fold_in(jax.random.key(seed), 3)
    return run.plan.init(run.trained.part, run.trained.axes, params, key)


def evaluator(
    run: Session,
    objective: Objective,
    batches: Any,
    most: int,
    *,
    frozen: Params = (),
    complete: Callable[[TrainState, Any], Any] = lambda state, batch: batch,
) -> loop.Evaluate:
    """Means of the objective's metrics over held-out batches, and where it counts tokens the perplexity.

    `complete` gives a batch the columns that depend on the state.
    """
    step = run.plan.step(functools.partial(evaluate, objective=lifted(run, objective)), donate=False)

    def means(state: TrainState) -> dict[str, float]:
        mean = metrics.Mean()
        params = optim.evaluated(state.params, state.opt_state)
        for i in range(min(len(batches), most or len(batches))):
            batch = run.plan.put(complete(state, batches.batch(i)))
            mean.add(run.plan.get(step(params, (run.base, frozen), batch)))
        # What nothing was counted for is not told, as the entropy where no row's documents are whole.
        counted = {name for name, (_, count) in mean.sums.items() if count}
        found = {name: value for name, value in mean.take().items() if name in counted}
        with np.errstate(over="ignore"):  # infinite, once the loss is above 709
            per_token = {"loss", "accuracy"} <= found.keys()
            return {**found, "perplexity": float(np.exp(found["loss"]))} if per_token else found

    return means


def lifted(run: Session, objective: Objective) -> Objective:
    """An objective of whole parameters as one of what is trained; its frozen tree becomes (base, frozen)."""

    def of_trained(params: Params, frozen: Params, batch: Batch, rng: Key | None) -> Loss:
        base, rest = frozen
        return objective(run.trained.whole(params, base), rest, batch, rng)

    return of_trained


def gathered(plan: parallel.Plan, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of all hosts, from this host's."""
    if plan.process[1] == 1:
        return dict(batch)
    return {name: x.reshape(-1, *batch[name].shape[1:]) for name, x in plan.get(plan.put(batch)).items()}


def offline(iterate: Callable[[int], Iterator[Any]]) -> Callable[[int], loop.NextBatch]:
    """Batches that do not depend on the state, from `iterate(first batch)`."""

    def begin(first: int) -> loop.NextBatch:
        batches = iterate(first)
        return lambda state: next(batches)

    return begin


def show(lines: list[str], primary: bool) -> None:
    """Prints on the first host alone."""
    metrics.Progress(0, show=primary).print("\n".join(lines))


class Stage(NamedTuple):
    """What a stage brings to the training that all share."""

    objective: Objective  # of whole parameters
    next_batch: Callable[[int], loop.NextBatch]  # next_batch(i) yields from batch i on
    table: list[tuple[str, str]]  # what was read, for people
    decode: Callable[..., str]
    tokens: int  # in a global batch
    score: loop.Evaluate | None = None
    sample: loop.Sample | None = None
    expect: Mapping[str, tuple[float, float]] | None = None  # and the rest as loop.fit and the step have them
    frozen: Params = ()
    carry: Callable[[Any, Metrics], Any] | None = None
    finish: Callable[[TrainState], TrainState] | None = None


def train(cfg: Any, run: Session, stage: Stage) -> TrainState:
    """Preflight, then training from the newest checkpoint or the start.

    A run that is already finished is evaluated and sampled from again.
    """
    plan, began, found = run.plan, time.perf_counter(), {}
    flops = transformer.flops_per_token(run.arch, cfg.data.seq_len) * stage.tokens
    peak = metrics.peak_flops(jax.devices()[0].device_kind)
    speed = metrics.Speed(flops, peak and peak * jax.device_count())
    objective = lifted(run, stage.objective)
    parts = cfg.optim.microbatches
    step = plan.step(
        functools.partial(train_step, objective=objective, tx=run.tx, microbatches=parts, carry=stage.carry)
    )
    frozen = (run.base, stage.frozen)

    def scored(state: TrainState) -> Mapping[str, float]:
        found.update(stage.score(state))
        return found

    with Checkpoints(run.path, cfg.run.keep) as saved:
        state, meta = first_state(cfg, run, saved)
        done = int(plan.get(state.step))
        if done >= cfg.run.steps:
            show(
                [f"all {done} steps are done; held-out numbers and samples of the last checkpoint:"],
                run.primary,
            )
            text = stage.sample(state, done)[0] if stage.sample else ""
            show([loop.held_out("", scored(state)) if stage.score else "", text], run.primary)
            return state
        batches = stage.next_batch(done)
        first = batches(state)
        told = _preflight(cfg, run, stage, first, flops)
        show(told if done == 0 else [f"resuming from step {done} of {cfg.run.steps}"], run.primary)
        if cfg.run.dry_run:
            return dry_run(cfg, run, step, state, first, stage.expect, frozen)
        with (
            metrics.Writer(run.path, done, primary=run.primary) as writer,
            metrics.Progress(cfg.run.steps, done, show=run.primary) as bar,
        ):
            if writer.note:
                bar.print(writer.note)
            rate, mean = optim.schedule(cfg.optim, cfg.run.steps), metrics.Mean(meta.get("mean"))
            out = loop.Output(writer, bar, saved, speed, stage.tokens, rate, mean)
            state, finished = loop.fit(
                state, frozen, plan, step, _replayed(first, batches), run=cfg.run, out=out, sample=stage.sample,
                evaluate=scored if stage.score else None, expect=stage.expect, finish=stage.finish,
            )  # fmt: skip
    if finished:
        show(summary(run, cfg.run.steps, found, speed.total(), time.perf_counter() - began), run.primary)
    return state


def _preflight(cfg: Any, run: Session, stage: Stage, first: Any, flops: float) -> list[str]:
    sizes = preflight.memory(run.plan.abstract(born(run, cfg.run.seed), run.trained.axes), first)
    if run.trained.frozen:
        count = sum(leaf.size for leaf in jax.tree.leaves(run.base))
        sizes.insert(1, ("frozen parameters", f"{count:,}, the adapters' base"))
    where = f"{run.plan.name}, {jax.device_count()} x {jax.devices()[0].device_kind}"
    rest = [("model FLOPs of a step", f"{flops:.3g}"), ("plan", where)]
    head = "targets of the first rows (⟨not in the loss⟩, ⏎ ends a document)"
    rows = preflight.first_rows(first, stage.decode)
    return ["data", *terminal.lines(stage.table), "run", *terminal.lines([*sizes, *rest]), head, *rows]


def summary(
    run: Session, steps: int, found: Mapping[str, float], speed: Mapping[str, float], seconds: float
) -> list[str]:
    """What a finished run came to, in a few lines."""
    said = {
        "held-out loss": ("{loss:.4f}" + ", perplexity {perplexity:.2f}" * ("perplexity" in found), "loss"),
        "accuracy": ("{rewards/accuracies:.4f}", "rewards/accuracies"),
        "agreement": ("{accuracy:.4f} with the labels, calibration error {ece:.4f}", "ece"),
        "with gold": ("{gold_accuracy:.4f}", "gold_accuracy"),
        "bits per byte": ("{bits_per_byte:.4f}", "bits_per_byte"),
        "above entropy": ("{bits_per_byte_above_entropy:.4f}", "bits_per_byte_above_entropy"),
    }
    fast = f", {speed['tokens_per_s']:,.0f} tokens/s" if speed else ""
    table = [
        *((name, text.format(**found)) for name, (text, needs) in said.items() if needs in found),
        ("time", f"{seconds / 60:.1f} min{fast}"),
        ("checkpoint", str(run.path / "checkpoints" / str(steps))),
    ]
    return [f"finished {steps} steps", *terminal.lines(table)]


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
    frozen: Params = (),
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
    show(["first step", *terminal.lines([*shown, *cost])], run.primary)
    return state
