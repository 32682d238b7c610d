"""What the on-policy stages share: prompts, scorer, rollouts, samples. Imported once the flags are checked."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtrain import worlds
from jaxtrain.config import ConfigError, RolloutStageConfig
from jaxtrain.data import dialogs, prompts, source_spec, special_text
from jaxtrain.data.chat import Template, load_template
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache
from jaxtrain.models import transformer
from jaxtrain.ops import policy_gradient
from jaxtrain.rewards import functions, models
from jaxtrain.rewards.function_args import TrainerState, available
from jaxtrain.rl import completion_table, rollouts
from jaxtrain.rl import scoring as rl_scoring
from jaxtrain.rl.rollout_store import RolloutStore
from jaxtrain.stages import before_after, eval_prompts, init_from, trainer
from jaxtrain.stages.session import Session, gather_rows, pinned_run, policy_session, reference_params
from jaxtrain.train import workdir
from jaxtrain.train.parallel import Plan
from jaxtrain.types import Objective


def check(cfg: RolloutStageConfig, tokenizer: Tokenizer) -> None:
    """Raises ConfigError for flags that contradict each other, and for a reward model that cannot score this policy."""
    s, size = cfg.samples, _iteration_size(cfg)
    if size % s.group:
        raise ConfigError(
            f"--group={s.group} completions of a prompt do not divide an iteration's {size} (--batch_size times "
            "--minibatches): use a divisor"
        )
    if any(source.weight != 1 for source in source_spec.parse(cfg.data.data)):
        raise ConfigError(
            f"--data={cfg.data.data}: all prompts are sampled equally often; leave the weights out"
        )
    if cfg.scores.overlong_buffer > s.max_new:
        raise ConfigError(f"--overlong_buffer={cfg.scores.overlong_buffer}: more than --max_new={s.max_new}")
    models.check(cfg.scores, tokenizer, cfg.data.seq_len, load_template(cfg.data.template, tokenizer))


def _iteration_size(cfg: RolloutStageConfig) -> int:
    """The number of completions of an iteration."""
    return cfg.data.batch_size * cfg.samples.minibatches


def settings(
    cfg: RolloutStageConfig, *, critic: bool, **values: Any
) -> policy_gradient.PolicyGradientSettings:
    """The objective's settings. Raises ConfigError where one of them would do nothing."""
    result = policy_gradient.PolicyGradientSettings(temperature=cfg.samples.temperature, **values)
    try:
        policy_gradient.check(result, critic=critic)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    return result


def fingerprints(cfg: RolloutStageConfig, template: Template) -> dict[str, str]:
    """The fingerprints of a run's data: its prompts, tokenizer and template.

    Raises ConfigError, before a model is loaded, for a reward function that needs more than the prompts' records have.
    """
    read = _read_prompts(cfg, template)
    if cfg.scores.reward:
        names = available(
            {name for prompt in read for name in prompt.record}, has_ids=True, state=TrainerState()
        )
        functions.check_arguments(functions.resolve(cfg.scores.reward), names, f"--data={cfg.data.data}")
    digest = cache.digest(*(prompt.ids.tobytes() for prompt in read))
    return {"data": digest, "tokenizer": template.tokenizer.fingerprint, "template": template.fingerprint}


def _read_prompts(
    cfg: RolloutStageConfig, template: Template, notes: list[str] | None = None
) -> list[Prompt]:
    return prompts.read_prompts(cfg.data.data, cfg.data, template, flag="data", train=True, notes=notes)


def open_scorer(
    cfg: RolloutStageConfig, plan: Plan, path: Path
) -> tuple[models.CompletionScorer, models.RewardModel | None]:
    """(the scorer that --reward_model or --reward names, its reward model where it is one)."""
    if cfg.scores.reward:
        return models.function_scorer(cfg.scores.reward, plan), None
    text = pinned_run(path, "reward_model", cfg.scores.reward_model)
    if not cfg.run.dry_run and plan.primary:
        workdir.record(path, reward_model=text)
    reward_model = models.load(cfg.scores, text, plan, cfg.model)
    return models.model_scorer(reward_model, plan, cfg.data.batch_size), reward_model


def stage(
    cfg: RolloutStageConfig,
    session: Session,
    template: Template,
    objective: Objective,
    advantages: Callable,
    scorer: models.CompletionScorer,
    *,
    controller: rollouts.KlController,
    priced: bool,
    extra: Callable[[int, float], Mapping[str, Any]] = lambda step, tokens: {},
    table: list[tuple[str, str]] | None = None,
) -> trainer.Stage:
    """The stage of an objective on rollouts; `priced` says whether the reference model has a part in it."""
    notes: list[str] = []
    read = _read_prompts(cfg, template, notes)
    fitting, lines = rl_scoring.fitting_prompts(read, cfg, template.tokenizer.bos)
    decode = template.tokenizer.decode_completion
    world = worlds.world_of(source.kind for source in source_spec.parse(cfg.data.data))
    size = _iteration_size(cfg)
    updates = cfg.samples.epochs * cfg.samples.minibatches
    reference = functools.partial(reference_params, session, cfg.run.seed)
    setup = rollouts.RolloutConfig(
        prompts=fitting,
        scoring=rl_scoring.ScoringConfig(
            scorer=scorer,
            tokenizer=template.tokenizer,
            ends=init_from.end_ids(session.start, template.ends),
            truncation_tokens=rl_scoring.truncation_tokens(template.tokenizer, cfg.scores),
            gold=world.gold if world else None,
        ),
        advantages=advantages,
        controller=controller,
        reference=reference if priced else None,
        extra=extra,
    )
    sample = completion_table.with_completion_table(
        session, eval_prompts.eval_sampler(policy_session(session), cfg, template, decode)
    )
    store = RolloutStore(cfg, session, controller.coef)
    iteration = f"{size:,} completions of {size // cfg.samples.group:,} prompts, {updates} updates"
    return trainer.Stage(
        objective=objective,
        next_batch=rollouts.rollout_batches(cfg, session, setup, store),
        table=[
            ("prompts", f"{len(fitting):,} of {cfg.data.data}"),
            *(("prompts", line) for line in (*lines, *notes)),
            ("iteration", iteration),
            *scorer.table,
            *(table or []),
        ],
        decode=special_text.marked_decoder(template.tokenizer),
        tokens=cfg.data.batch_size * cfg.data.seq_len,
        sample=before_after.with_before_after(session, cfg, template, decode, reference, sample),
        expect=expected(transformer.compute_dtype(cfg.model, session.plan.platform), priced),
        carry=rollouts.carry(cfg),
        meta=store.meta,
        unusable=store.unusable,
    )


def expected(dtype: Any, priced: bool) -> dict[str, tuple[float, float]]:
    """The first update's metrics, (value, tolerance): the policy is still the one that sampled, and the reference."""
    near = 1e-3 if dtype == jnp.float32 else 3e-2
    kl = {"objective/kl": (0.0, 10 * near)} if priced else {}
    return {
        "val/ratio": (1.0, near),
        "policy/approxkl_avg": (0.0, near),
        "policy/clipfrac_avg": (0.0, near),
    } | kl


def ptx_columns(
    cfg: RolloutStageConfig, session: Session, template: Template, weight: float, data: str
) -> tuple[Callable[[int, float], Mapping[str, np.ndarray]], list[tuple[str, str]]]:
    """(a function (update, tokens in the loss) -> PPO-ptx's columns, lines for the table)."""
    if not weight:
        return lambda step, tokens: {}, []
    pretraining = dialogs.prepare(
        dataclasses.replace(cfg.data, data=data, eval_data="", columns=""), seed=cfg.run.seed,
        tokenizer=template.tokenizer, template=template, local_rows=session.plan.local_rows,
    )  # fmt: skip

    def extra(step: int, tokens: float) -> dict[str, np.ndarray]:
        rows = pretraining.train.batch(step)
        count = float(gather_rows(session.plan, {"mask": rows["mask"]})["mask"].sum())
        names = ("tokens", "targets", "mask", "segments", "positions", "row")
        scale = np.full(len(rows["row"]), tokens / max(count, 1.0), np.float32)
        return {f"ptx/{name}": rows[name] for name in names} | {"ptx_scale": scale}

    return extra, [(f"pretraining {name}", line) for name, line in pretraining.table]
