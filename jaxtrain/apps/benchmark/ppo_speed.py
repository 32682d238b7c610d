"""A PPO iteration, stage by stage: rollout, scoring, annotation, advantages, updates. A part of the GPU check."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain import config
from jaxtrain.apps.benchmark import workloads
from jaxtrain.apps.benchmark.process import Report
from jaxtrain.apps.benchmark.sizes import CheckSizes, PpoSize
from jaxtrain.apps.benchmark.timing import Clock, Timing
from jaxtrain.generate import engine, sampler
from jaxtrain.models import reward as reward_models
from jaxtrain.models import transformer, value, zoo
from jaxtrain.objectives.ppo import ppo
from jaxtrain.ops.logprobs import COMPLETIONS
from jaxtrain.ops.policy_gradient import PolicyGradientSettings
from jaxtrain.rl import advantages
from jaxtrain.stages.load_model import build_model
from jaxtrain.train import host, optim
from jaxtrain.train.step import init_state, train_step

SEED = 0
OPTIM = config.Optim(lr=1e-5, warmup=0, schedule="constant", weight_decay=0.0)
KL_COEF = 0.05


def iteration(sizes: CheckSizes, seconds: float, report: Report) -> list[str]:
    """Seconds of each stage of an iteration; the first one, with its compilation, apart."""
    clock, size = Clock(seconds), sizes.ppo
    stages = _stages(size)
    first = stages.run()
    about = {**size._asdict(), "parameters": transformer.parameters(zoo.resolve(size.model))}
    report("first iteration", {**about, "seconds": first})
    taken, longest = [], 0.0
    for _ in range(sizes.repeats):
        if taken and not clock.fits(longest):
            break
        begun = time.monotonic()
        taken.append(stages.run())
        longest = max(longest, time.monotonic() - begun)
    walls = {name: Timing(tuple(each[name] for each in taken), ()).record() for name in first}
    report("iteration", {**about, "seconds": walls, "tokens": size.completions * size.new})
    return []


class Stages(NamedTuple):
    """The stages of an iteration, each a function of what the one before it gave."""

    rollout: Callable[[Any], Any]  # None -> rows of prompt and completion
    scoring: Callable[[Any], Any]
    annotation: Callable[[Any], Any]
    advantages: Callable[[Any], Any]
    updates: Callable[[Any], Any]

    def run(self) -> dict[str, float]:
        """Wall seconds of each stage of one iteration."""
        seconds, values = {}, None
        for name, stage in self._asdict().items():
            before, _ = host.clocks()
            values = jax.block_until_ready(stage(values))
            seconds[name] = host.clocks()[0] - before
        return seconds


def _stages(size: PpoSize) -> Stages:
    """As experiments/ppo.py puts them together: values on a trunk of their own, a reward and a reference model."""
    plan, arch = workloads.one_device(), zoo.resolve(size.model)
    model = build_model(plan, arch, config.Model(model=size.model))
    critic, scorer = value.build(model, False), reward_models.build(model, 1)
    tx, key = optim.optimizer(OPTIM, 1000, critic.axes), jax.random.key(SEED)
    state = plan.init(lambda: init_state(critic.grow(model.init(key), key), tx, key), critic.axes)
    reference = plan.init(lambda: model.init(key), model.axes)
    weights = plan.init(lambda: scorer.grow(model.init(key), key), scorer.axes)
    score = plan.rows(lambda params, frozen, batch: scorer.scores(params, batch).swapaxes(0, 1))
    annotate = plan.rows(advantages.annotate_logps(model, critic, 1.0))
    gae = jax.jit(functools.partial(advantages.gae_advantages, how=advantages.AdvantageConfig()))
    objective = functools.partial(ppo, model=critic, settings=PolicyGradientSettings())
    step = plan.step(functools.partial(train_step, objective=objective, tx=tx))
    decoder = engine.build_engine(
        plan, model, ends=(), max_new=size.new, whole=lambda params, base: params["policy"]
    )
    ids = (
        np.random.default_rng(SEED).integers(0, arch.vocab, (size.completions, size.prompt)).astype(np.int32)
    )
    prompts = sampler.prompt_batch(ids.tolist(), SEED, bucket=size.prompt)

    def parts(columns: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [
            {name: x[i : i + size.rows] for name, x in columns.items()}
            for i in range(0, size.completions, size.rows)
        ]

    def rollout(_: None) -> dict[str, np.ndarray]:
        completions = engine.complete(decoder, decoder.ready(state.params, ()), prompts)
        return rows_of(ids, completions.tokens)

    def scoring(rows: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        columns = ("tokens", "segments", "positions", "length")
        one = [{name: part[name][:, None] for name in columns} for part in parts(rows)]  # one alternative
        found = [plan.get(score(weights, (), plan.put(part))) for part in one]
        return rows, np.concatenate(found)[:, 0, 0]

    def annotation(scored: tuple[dict[str, np.ndarray], np.ndarray]) -> Any:
        rows, scores = scored
        columns = [{name: part[name] for name in COMPLETIONS} for part in parts(rows)]
        found = [plan.get(annotate(state.params, reference, plan.put(part))) for part in columns]
        return rows | {name: np.concatenate([part[name] for part in found]) for name in found[0]}, scores

    def with_advantages(annotated: Any) -> dict[str, np.ndarray]:
        rows, scores = annotated
        columns, _ = plan.get(gae(rows, scores, np.zeros(len(scores), bool), np.float32(KL_COEF)))
        return columns | {name: rows[name] for name in (*COMPLETIONS, "old_logps", "ref_logps")}

    def updates(columns: dict[str, np.ndarray]) -> Any:
        nonlocal state
        for part in parts(columns) * size.epochs:
            rows = {"row": np.arange(size.rows, dtype=np.int32)}
            state, metric = step(state, (), plan.put(part | rows))
        return metric

    return Stages(rollout, scoring, annotation, with_advantages, updates)


def rows_of(prompts: np.ndarray, completions: np.ndarray) -> dict[str, np.ndarray]:
    """The rows [R, T] of prompts i32[R, P] and whole completions i32[R, N]; the loss is on the completions."""
    tokens = np.concatenate([prompts, completions], axis=1)
    R, T = tokens.shape
    places = np.tile(np.arange(T, dtype=np.int32), (R, 1))
    return {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "mask": ((places >= prompts.shape[1] - 1) & (places < T - 1)).astype(np.float32),
        "segments": np.ones_like(tokens),
        "positions": places,
        "length": np.full(R, T, np.int32),
    }
