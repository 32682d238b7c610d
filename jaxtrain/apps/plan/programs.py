"""The programs of one training step of a stage, compiled for devices that are not there.

Session, step, sampler and annotation are those of a run; only what a run would place on devices is a shape here. This
runs in a process of its own (apps/plan/worker.py), as the compilers need an environment and never give a device back.
"""

import functools
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain.apps.plan import stage_work, topologies
from jaxtrain.apps.plan.request import PlanRequest, reward_model_arch, stage_arch, teacher_arch
from jaxtrain.apps.plan.stage_work import StageWork
from jaxtrain.apps.plan.types import CompiledProgram, CompiledStage, OutOfMemory, ProgramMemory
from jaxtrain.generate import batch_sampler, sampler
from jaxtrain.generate.engine import build_engine
from jaxtrain.models import quantized_weights, transformer
from jaxtrain.models import reward as reward_models
from jaxtrain.models.zoo import Arch
from jaxtrain.rewards.models import score_program
from jaxtrain.rl import rollouts
from jaxtrain.stages import frozen_base
from jaxtrain.stages.init_from import InitFrom
from jaxtrain.stages.load_model import build_model
from jaxtrain.stages.session import (
    POLICY,
    Session,
    build_session,
    fresh_state_fn,
    of_trained,
    policy_session,
)
from jaxtrain.train import parallel
from jaxtrain.train.preflight import leaf_bytes
from jaxtrain.train.step import train_step
from jaxtrain.types import LM, Params, TrainState

NO_ROOM = "RESOURCE_EXHAUSTED"
# Four times cheaper to compile, memory within 14 %. jax 0.11 took the first option out; both give the same memory.
FAST = (
    {"exec_time_optimization_effort": -1.0}
    if jax.__version_info__ < (0, 11)
    else {"optimization_level": "O0"}
)


class _Lowered(NamedTuple):
    """A program before it is compiled."""

    name: str
    lowered: Any  # jax.stages.Lowered
    runs: float
    tokens: int
    arguments: tuple[Any, ...]  # those of the trees that a device holds all through training


class _Stage(NamedTuple):
    """A stage on abstract devices: every array is a shape with a sharding."""

    cfg: Any
    plan: parallel.Plan
    work: StageWork | None  # None: sampling alone
    session: Session
    state: TrainState | None
    params: Params  # the trained ones, or those that are sampled from
    teacher: tuple[LM | None, Params]
    reference: Params
    scorer: tuple[Any, Params]
    archs: Mapping[str, Arch]
    exact: bool = False


def compile_stage(request: PlanRequest) -> CompiledStage:
    """The programs of a stage, compiled. Raises ConfigError for a plan that its devices cannot have."""
    topology = topologies.parse(request.chip)
    cfg = replace(request.cfg, run=replace(request.cfg.run, parallel="mesh"))
    plan = parallel.make(cfg.run, topologies.describe(topology))
    plan.check_batch(cfg.data.batch_size, cfg.optim.microbatches, cfg.data.seq_len)
    stage = _abstract_stage(request.stage, cfg, plan)._replace(exact=request.exact)
    resident = _resident(stage)
    held, compiled, refused = dict(resident), [], []
    for program in _programs(stage, held):
        if request.only and program.name not in request.only:
            continue
        beside = sum(resident.values()) - sum(_bytes(tree) for tree in program.arguments)
        result = _compiled(program, request.exact, beside, plan.platform)
        (refused if isinstance(result, OutOfMemory) else compiled).append(result)
    mesh = _mesh(stage.params)
    return CompiledStage(
        stage=request.stage,
        model=cfg.model.init_from or cfg.model.model,
        chip=topology.name,
        device_kind=mesh.devices.flat[0].device_kind,
        devices=mesh.devices.size,
        hosts=plan.process[1],
        mesh=dict(mesh.shape),
        batch_size=cfg.data.batch_size,
        seq_len=cfg.data.seq_len,
        remat=cfg.model.remat,
        exact=request.exact,
        parameters=_count(stage),
        model_flops=_model_flops(stage),
        held=held,
        programs=tuple(compiled),
        refused=tuple(refused),
        arch=stage.archs["policy"],
        microbatches=cfg.optim.microbatches,
    )


def _abstract_stage(name: str, cfg: Any, plan: parallel.Plan) -> _Stage:
    arch = stage_arch(cfg)
    work = stage_work.STAGES[name](cfg) if name != "sample" else None
    how = {"heads": work.heads, "rates": work.rates, "noise": work.noise} if work else {}
    session = build_session(cfg, Path(), plan, arch, InitFrom(arch, None, {}), **how)
    archs = {"policy": arch}
    if work is None:
        params = plan.abstract(lambda: session.model.init(jax.random.key(0)), session.model.axes)
        return _Stage(cfg, plan, None, session, None, params, (None, ()), (), (None, ()), archs)
    session = session._replace(extra=work.extra)
    if session.trained.frozen:
        axes = session.heads.axes if session.heads else session.model.axes
        base = plan.abstract(_all_parameters(session), axes)
        session = session._replace(base=frozen_base.in_base_type(plan, base, axes, cfg.lora))
    teacher, reference, scorer = (None, ()), (), (None, ())
    if work.teacher:
        archs["teacher"] = teacher_arch(cfg, arch)
        teacher = _frozen(cfg, plan, archs["teacher"])
    if work.reference and not session.base:  # adapters' base is the reference
        _, reference = _frozen(cfg, plan, arch)
    if work.scored:
        archs["scorer"], members = reward_model_arch(cfg, arch)
        scorer = _scorer(cfg, plan, archs["scorer"], members)
    state = plan.abstract(fresh_state_fn(session, cfg.run.seed), session.trained.axes)
    return _Stage(cfg, plan, work, session, state, state.params, teacher, reference, scorer, archs)


def _all_parameters(session: Session) -> Any:
    def make() -> Params:
        params = session.model.init(jax.random.key(0))
        return session.heads.grow(params, jax.random.key(1)) if session.heads else params

    return make


def _frozen(cfg: Any, plan: parallel.Plan, arch: Arch) -> tuple[LM, Params]:
    model = build_model(plan, arch, cfg.model)
    return model, plan.abstract(lambda: model.init(jax.random.key(0)), model.axes)


def _scorer(cfg: Any, plan: parallel.Plan, arch: Arch, members: int) -> tuple[Any, Params]:
    model = build_model(plan, arch, cfg.model)
    scorer = reward_models.build(model, members)
    key = jax.random.key(0)
    return scorer, plan.abstract(lambda: scorer.grow(model.init(key), key), scorer.axes)


def _programs(stage: _Stage, held: dict[str, int]) -> Iterator[_Lowered]:
    """The programs, lowered one after the other; what they hold besides what is resident is added to `held`."""
    if stage.work is None:
        yield from _sampling(stage, held, runs=1.0)
        return
    yield _training(stage, held)
    if stage.work.on_policy:
        s = stage.cfg.samples
        yield from _sampling(stage, held, runs=1 / (s.epochs * s.minibatches))
        yield from _scoring(stage)


def _training(stage: _Stage, held: dict[str, int]) -> _Lowered:
    work, session = stage.work, stage.session
    model, params = stage.teacher
    step = stage.plan.step(
        functools.partial(
            train_step, objective=of_trained(session, work.objective(session, model)), tx=session.tx,
            microbatches=stage.cfg.optim.microbatches, carry=work.carry,
        )
    )  # fmt: skip
    batch = _batch(_mesh(stage.params), work.columns)
    held["batch"] = _bytes(batch)
    frozen = (session.base, params)
    return _Lowered(
        "train step", step.lower(stage.state, frozen, batch), 1.0, work.tokens, (stage.state, frozen)
    )


def _sampling(stage: _Stage, held: dict[str, int], runs: float) -> Iterator[_Lowered]:
    """Parameters laid out for sampling, prefill and decode; `runs` is the number of rollouts for a training step."""
    cfg, session, params = stage.cfg, policy_session(stage.session), stage.params
    s, on_policy = cfg.samples, stage.work is not None
    group, minibatches = (s.group, s.minibatches) if on_policy else (1, 1)
    engine = build_engine(
        stage.plan, session.model, ends=(0,), max_new=s.max_new, whole=session.trained.whole
    )
    reshard = engine.ready.lower(params, session.base)
    yield _Lowered("reshard", reshard, runs, 0, (_policy(params), _policy(session.base)))
    ready = _laid_out(reshard, stage.exact)
    if ready is None:
        return
    prompts = cfg.data.batch_size * minibatches // group
    rows = batch_sampler.prompts_per_call(prompts, group, engine.plan.shards) if on_policy else prompts
    calls = runs * -(-prompts // rows)
    batch = _batch(_mesh(ready), _prompt_columns(cfg, rows, group))  # a decoder may have a mesh of its own
    prefill, decode = engine.programs
    first = prefill.lower(ready, (), (), batch)
    held["sampling parameters"] = _bytes(ready)
    yield _Lowered("prefill", first, calls, rows * (cfg.data.seq_len - s.max_new), ())
    state = _laid_out(first, stage.exact)
    if state is None:
        return
    held["KV cache"] = _bytes(state.kv_cache)
    if s.max_new > 1:
        steps = jax.ShapeDtypeStruct((), np.int32)
        tokens = rows * group * (s.max_new - 1)
        yield _Lowered("decode", decode.lower(ready, state, steps, {}), calls, tokens, ())


def _policy(tree: Any) -> Any:
    """The policy's part of the parameters of a policy with a value function; those of a language model as they are."""
    return tree.get(POLICY, tree) if isinstance(tree, dict) else tree


def _scoring(stage: _Stage) -> Iterator[_Lowered]:
    """The passes over a rollout: log-probabilities and values, and the reward model's scores."""
    cfg, session, B, T = stage.cfg, stage.session, stage.cfg.data.batch_size, stage.cfg.data.seq_len
    runs = 1 / cfg.samples.epochs
    reference = stage.reference
    if stage.work.reference and session.base:
        reference = _policy(session.base)
    columns = {name: x for name, x in stage_work.rows(B, T).items() if name in rollouts.ROWS}
    batch = _batch(_mesh(stage.params), columns)
    annotate = rollouts.annotate_program(session, cfg.samples.temperature)
    lowered = annotate.lower(stage.params, (session.base, reference), batch)
    yield _Lowered("annotate", lowered, runs, B * T, (stage.params, session.base, stage.reference))
    scorer, params = stage.scorer
    if scorer is not None:
        batch = _batch(_mesh(stage.params), stage_work.scored_rows(B, T))
        lowered = score_program(scorer, stage.plan).lower(params, (), batch)
        yield _Lowered("score", lowered, runs, B * T, (params,))


def _prompt_columns(cfg: Any, rows: int, group: int) -> stage_work.Columns:
    """The batch of a prefill of `rows` prompts, of the most tokens that --seq_len leaves them."""
    length = cfg.data.seq_len - cfg.samples.max_new
    batch = sampler.prompt_batch([[0] * length], 0, samples=group)
    batch["seed"] = batch["seed"].reshape(-1, group)
    batch |= sampler.sampling_columns(1, sampler.active_params({"temperature": cfg.samples.temperature}))
    return {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for name, x in batch.items()}


def _mesh(tree: Any) -> Any:
    """The mesh that a tree lies on."""
    return jax.tree.leaves(tree)[0].sharding.mesh


def _batch(mesh: Any, columns: stage_work.Columns) -> stage_work.Columns:
    where = parallel.batch_shardings(mesh, columns)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where[name]) for name, x in columns.items()}


@functools.lru_cache(maxsize=1)
def _executable(lowered: Any, exact: bool) -> Any:
    return lowered.compile(compiler_options={} if exact else FAST)


def _laid_out(lowered: Any, exact: bool) -> Any:
    """What a program gives, as shapes that lie as the compiler puts them; None where it does not fit a device."""
    try:
        where = _executable(lowered, exact).output_shardings
    except jax.errors.JaxRuntimeError as error:
        if NO_ROOM in str(error):
            return None
        raise
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        lowered.out_info,
        where,
    )


def _compiled(program: _Lowered, exact: bool, beside: int, platform: str) -> CompiledProgram | OutOfMemory:
    started = time.perf_counter()
    try:
        done = _executable(program.lowered, exact)
    except jax.errors.JaxRuntimeError as error:
        if NO_ROOM not in str(error):
            raise
        return OutOfMemory(program.name, program.runs, *_sizes(str(error)), str(error), beside)
    stats = done.memory_analysis()
    memory = ProgramMemory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        live=stats.peak_memory_in_bytes if platform == "tpu" else 0,
    )
    seconds = time.perf_counter() - started
    return CompiledProgram(
        program.name, done.as_text(), memory, program.runs, seconds, program.tokens, beside
    )


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def _sizes(message: str) -> tuple[int, int]:
    """(bytes needed, bytes available) of the compiler's message; zeros where it does not say."""
    size = r"([\d.]+)([KMG]?)"
    found = re.search(rf"Used {size} of {size} hbm", message) or re.search(
        rf"\({size}\) exceeds available HBM \({size}\)", message
    )
    if not found:
        return 0, 0
    return int(float(found[1]) * _UNITS[found[2]]), int(float(found[3]) * _UNITS[found[4]])


def _bytes(tree: Any) -> int:
    """Bytes of a tree on one device."""
    return sum(leaf_bytes(leaf, shard=True) for leaf in jax.tree.leaves(tree))


def _resident(stage: _Stage) -> dict[str, int]:
    """Bytes on one device by kind, of what it holds all through training."""
    if stage.work is None:
        return {"parameters": _bytes(stage.params)}
    frozen = (stage.session.base, stage.teacher[1], stage.reference, stage.scorer[1])
    state = stage.state
    return {
        "parameters": _bytes(state.params),
        "optimizer": _bytes(state) - _bytes(state.params),
        "frozen": _bytes(frozen),
    }


def _count(stage: _Stage) -> int:
    frozen = (stage.session.base, stage.teacher[1], stage.reference, stage.scorer[1])
    return quantized_weights.count((stage.params, frozen))


def _model_flops(stage: _Stage) -> float:
    cfg, work, archs = stage.cfg, stage.work, stage.archs
    if work is None:
        tokens = cfg.data.batch_size * cfg.data.seq_len
        return tokens * transformer.flops_per_token(archs["policy"], cfg.data.seq_len) / 3
    flops = stage_work.training_flops(archs["policy"], cfg, work, archs.get("teacher"))
    if work.on_policy:
        scorer = archs.get("scorer")
        members = stage.scorer[1]["score"]["bias"].shape[0] if scorer else 1
        rollout = stage_work.rollout_flops(archs["policy"], cfg, work, scorer, members)
        flops += rollout / cfg.samples.epochs
    return flops
