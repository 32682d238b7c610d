"""A training session: workdir, device plan, model and optimizer, and the parameters that training starts from."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxtrain import config
from jaxtrain.data.tokenizer import Tokenizer, save_tokenizer
from jaxtrain.files import hf_hub, paths
from jaxtrain.models import zoo
from jaxtrain.stages import frozen_base, lineage, weights
from jaxtrain.stages.init_from import InitFrom, load_run, require_rows
from jaxtrain.stages.load_model import build_model
from jaxtrain.train import metrics, multihost, optim, parallel, workdir
from jaxtrain.train.checkpoint import Checkpoints, Unusable
from jaxtrain.train.checkpoint_upload import needs_upload
from jaxtrain.train.step import init_state
from jaxtrain.types import LM, ActorCritic, Batch, Key, Loss, Objective, Params, TrainState

POLICY = "policy"  # branch of an ActorCritic's parameters


class Session(NamedTuple):
    """A run that is set up: its workdir, plan, model and optimizer, and which of the parameters it trains."""

    path: Path
    plan: parallel.Plan
    arch: zoo.Arch
    model: LM
    tx: optax.GradientTransformation
    primary: bool  # whether this process is the one that writes and prints
    start: InitFrom
    trained: weights.TrainedPart
    heads: Any = None  # a Scorer or ActorCritic, of a stage that trains more than a language model
    given: Callable[[], tuple] = tuple  # further arguments of heads.grow
    base: Params = ()  # the frozen parameters under adapters
    extra: Any = ()  # the initial TrainState.extra of a stage that has one


def make_plan(cfg: config.StageConfig) -> parallel.Plan:
    """The device plan of --parallel and --mesh. Raises ConfigError unless a batch splits over it."""
    plan = parallel.make(cfg.run)
    plan.check_batch(cfg.data.batch_size, cfg.optim.microbatches, cfg.data.seq_len)
    return plan


@contextlib.contextmanager
def open_workdir(cfg: config.StageConfig, stage: str, start: InitFrom, plan: parallel.Plan) -> Iterator[Path]:
    """The run's workdir, locked until the context ends; under --dry_run a temporary folder.

    Where the run fails before its first step, a workdir made for it is removed, so that a corrected command can use
    the name.
    """
    if cfg.run.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    folder, primary = paths.absolute(paths.parse(workdir.folder_of(cfg, stage), "workdir")), plan.primary
    if needs_upload(folder) and plan.process[1] > 1:
        raise config.ConfigError(
            f"--workdir={folder}: checkpoints of several hosts cannot be written to s3://; name a folder of gs://, or "
            "on a disk that all hosts mount"
        )
    existed, fresh = folder.exists(), not (folder / workdir.CONFIG).exists()
    lineage.require_same_parent(folder, start.lineage)
    with contextlib.ExitStack() as stack:
        opened = workdir.open_workdir(folder, cfg, stage, lineage=start.lineage, primary=primary)
        path = multihost.gather_results(lambda: stack.enter_context(opened))[plan.process[0]]
        try:
            multihost.require_seen(path, "workdir")
            yield path
        except BaseException:
            if primary and fresh:
                _unmake(path, keep=existed)
            raise


def _unmake(path: Path, keep: bool) -> None:
    if {entry.name for entry in path.iterdir()} - {workdir.CONFIG, workdir.LOCK, "tokenizer"}:
        return  # it has trained
    for file in [*path.glob("tokenizer/*"), path / workdir.CONFIG]:
        file.unlink(missing_ok=True)
    if config.is_remote(
        path
    ):  # its lock goes when it is released, and it has no folders but in its objects' names
        return
    (path / workdir.LOCK).unlink(missing_ok=True)
    for folder in [*path.glob("tokenizer"), *([] if keep else [path])]:
        folder.rmdir()


def start_session(
    cfg: config.StageConfig,
    path: Path,
    plan: parallel.Plan,
    start: InitFrom,
    tokenizer: Tokenizer,
    fingerprints: Mapping[str, str],
    *,
    heads: Callable[[LM], Any] | None = None,
    given: Callable[[], tuple] = tuple,
    rates: Mapping[str, float] | None = None,
    noise: float = 0.0,
) -> Session:
    """A session: builds model and optimizer, and writes arch, tokenizer and the data's fingerprints to the workdir.

    `heads` makes a Scorer or an ActorCritic of the model, which is trained instead; `given()` are arguments of its
    `grow` after the model's parameters and a key. `rates` are the optimizer's, `noise` is that of
    models/transformer.py's Execution.
    """
    vocab = start.arch.vocab or -(-tokenizer.vocab_size // 64) * 64
    require_rows(vocab, tokenizer, f"--tokenizer and --model={cfg.model.model}")
    arch = replace(start.arch, vocab=vocab)
    multihost.require_same(
        fingerprints, "Let all hosts read the same files: put them on a disk that all of them mount"
    )
    session = build_session(cfg, path, plan, arch, start, heads=heads, rates=rates, noise=noise)
    if session.primary and not cfg.run.dry_run:
        workdir.record_data(path, fingerprints)
        branch = POLICY if isinstance(session.heads, ActorCritic) else ""
        workdir.record(path, arch=asdict(arch), branch=branch, generation=dict(start.generation))
        with paths.written(path / "tokenizer") as folder:
            save_tokenizer(tokenizer, folder)
    session = session._replace(start=pinned_start(path, start)._replace(tokenizer=tokenizer), given=given)
    if not session.trained.frozen:
        return session
    whole = functools.partial(initial_params, session, cfg.run.seed)
    return session._replace(
        base=frozen_base.load(cfg, plan, session.start, session.model, session.heads, whole)
    )


def build_session(
    cfg: config.StageConfig,
    path: Path,
    plan: parallel.Plan,
    arch: zoo.Arch,
    start: InitFrom,
    *,
    heads: Callable[[LM], Any] | None = None,
    rates: Mapping[str, float] | None = None,
    noise: float = 0.0,
) -> Session:
    """A session without parameters: model, optimizer and what is trained. Nothing is read, written or computed."""
    model = build_model(plan, arch, cfg.model, noise)
    head_model = heads(model) if heads else None
    trained = weights.trained_part(head_model.axes if head_model else model.axes, cfg.lora)
    tx = optim.optimizer(cfg.optim, cfg.run.steps, trained.axes, rates or {})
    return Session(path, plan, arch, model, tx, plan.primary, start, trained, head_model)


def pinned_start(path: Path, start: InitFrom) -> InitFrom:
    """The InitFrom pinned to the parent's step or commit in config.json: the parent may have trained on since."""
    if not start.origins or not (path / workdir.CONFIG).exists():
        return start
    *before, last = start.origins
    if last.hf and not last.hub:
        return start
    origin = workdir.read_run(path)["parent"]["origin"]
    if last.hub:
        return start._replace(origins=load_run(origin).origins)
    _, step = workdir.split_step(origin)
    return start._replace(origins=(*before, last if step is None else last._replace(step=step)))


def pinned_run(path: Path, name: str, text: str) -> str:
    """A run that this one depends on, as WORKDIR@STEP: what config.json has under `name`, else its newest step."""
    record = workdir.read_run(path) if (path / workdir.CONFIG).exists() else {}
    if record.get(name):
        return record[name]
    if text.startswith(hf_hub.PREFIX):
        folder = hf_hub.locate(text, name)
        return folder.origin if folder.hub else text
    source, step = workdir.split_step(text, name)
    return f"{paths.absolute(source)}@{step or workdir.newest_step(source)}"


def policy_session(session: Session) -> Session:
    """The session for sampling: of an ActorCritic the policy alone."""
    if not isinstance(session.heads, ActorCritic):
        return session
    merge = session.trained.whole
    return session._replace(
        trained=session.trained._replace(whole=lambda part, base: merge(part, base)[POLICY])
    )


def reference_params(session: Session, seed: int) -> Params:
    """The reference model's parameters: those of the language model that training starts from, adapters merged."""
    if not session.base:
        return weights.load_params(session.plan, session.start, session.model, seed)
    return session.base[POLICY] if isinstance(session.heads, ActorCritic) else session.base


def initial_params(session: Session, seed: int) -> Params:
    """All parameters that training starts from, of heads too. With adapters they are the session's base."""
    if session.base:
        return session.base
    params = weights.load_params(session.plan, session.start, session.model, seed)
    if session.heads is None:
        return params
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return session.plan.init(session.heads.grow, session.heads.axes, params, key, *session.given())


def fresh_state_fn(session: Session, seed: int) -> Callable[[], TrainState]:
    """A function that makes the initial TrainState of a model with random weights."""

    def make() -> TrainState:
        key = jax.random.key(seed)
        params = session.model.init(key)
        if session.heads is not None:
            params = session.heads.grow(params, jax.random.fold_in(key, 2))
        return _state(session, session.trained.part(params, jax.random.fold_in(key, 3)), seed)

    return make


def _state(session: Session, params: Params, seed: int) -> TrainState:
    return init_state(params, session.tx, jax.random.fold_in(jax.random.key(seed), 1), session.extra)


def first_state(
    seed: int, session: Session, shapes: TrainState, saved: Checkpoints, unusable: Unusable | None = None
) -> tuple[TrainState, dict]:
    """(state, meta): of the newest checkpoint, else of the parameters that --init_from names, else a fresh one."""
    axes = session.trained.axes
    if restored := saved.restore_usable(shapes, unusable):
        return restored
    if not session.start.origins:
        return session.plan.init(fresh_state_fn(session, seed), axes), {}
    params = trained_part(session, initial_params(session, seed), seed)
    return session.plan.init(functools.partial(_state, session, seed=seed), axes, params), {}


def trained_part(session: Session, params: Params, seed: int) -> Params:
    """The trained part of all parameters before the first step: themselves, or fresh adapters."""
    if not session.trained.frozen:
        return params
    key = jax.random.fold_in(jax.random.key(seed), 3)
    return session.plan.init(session.trained.part, session.trained.axes, params, key)


def of_trained(session: Session, objective: Objective) -> Objective:
    """An objective of all parameters as one of the trained part; its frozen tree becomes (base, frozen)."""

    def of_trained(params: Params, frozen: Params, batch: Batch, rng: Key | None) -> Loss:
        base, rest = frozen
        return objective(session.trained.whole(params, base), rest, batch, rng)

    return of_trained


def gather_rows(plan: parallel.Plan, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The global batch's rows, gathered from all hosts, in numpy."""
    if plan.process[1] == 1:
        return dict(batch)
    return {name: x.reshape(-1, *batch[name].shape[1:]) for name, x in plan.get(plan.put(batch)).items()}


def print_lines(lines: list[str], primary: bool) -> None:
    """Prints on the first host alone."""
    metrics.TrainingProgress(0, show=primary).print("\n".join(lines))
