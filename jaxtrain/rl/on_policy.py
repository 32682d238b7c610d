"""What the on-policy stages share: prompts, judge, rollouts, samples. Imported once the flags are checked."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtrain import worlds
from jaxtrain.config import ConfigError
from jaxtrain.data import dialogs, prompts, source_spec
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache
from jaxtrain.models import transformer
from jaxtrain.ops import policy_gradient
from jaxtrain.rewards import models
from jaxtrain.rl import rollouts
from jaxtrain.rl import scoring as rl_scoring
from jaxtrain.stages import before_after, eval_prompts, trainer
from jaxtrain.stages.session import Session, gather_rows, pinned_run, policy_session, reference_params
from jaxtrain.train import workdir
from jaxtrain.types import Objective


def check(cfg: Any, tokenizer: Tokenizer) -> None:
    """Raises ConfigError for flags that contradict each other, and for a reward model that cannot judge this policy."""
    s, size = cfg.samples, cfg.data.batch_size * cfg.samples.minibatches
    if size % s.group:
        raise ConfigError(
            f"--group={s.group} completions of a prompt do not divide an iteration's {size} (--batch_size times "
            "--minibatches): use a divisor"
        )
    if any(source.weight != 1 for source in source_spec.parse(cfg.data.data)):
        raise ConfigError(f"--data={cfg.data.data}: prompts are drawn alike; leave the weights out")
    if cfg.scores.overlong_buffer > s.max_new:
        raise ConfigError(f"--overlong_buffer={cfg.scores.overlong_buffer}: more than --max_new={s.max_new}")
    models.check(cfg.scores, tokenizer, cfg.data.seq_len)


def settings(cfg: Any, *, critic: bool, **values: Any) -> policy_gradient.PolicyGradientSettings:
    """The objective's settings. Raises ConfigError where one of them would do nothing."""
    made = policy_gradient.PolicyGradientSettings(temperature=cfg.samples.temperature, **values)
    try:
        policy_gradient.check(made, critic=critic)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    return made


def fingerprints(cfg: Any, template: Any) -> dict[str, str]:
    """What names the data of a run: its prompts, tokenizer and template."""
    asked = prompts.read_prompts(cfg.data.data, cfg.data, template, flag="data", train=True)
    told = cache.digest(*(each.ids.tobytes() for each in asked))
    return {"data": told, "tokenizer": template.tokenizer.fingerprint, "template": template.fingerprint}


def open_scorer(cfg: Any, plan: Any, path: Path) -> tuple[models.CompletionScorer, models.RewardModel | None]:
    """What --reward_model or --reward names, the model with it where it is one."""
    if cfg.scores.reward:
        return models.function_scorer(cfg.scores.reward, plan), None
    text = pinned_run(path, "reward_model", cfg.scores.reward_model)
    if not cfg.run.dry_run and plan.primary:
        workdir.record(path, reward_model=text)
    found = models.load(cfg.scores, text, plan, cfg.model)
    return models.model_scorer(found, plan, cfg.data.batch_size), found


def stage(
    cfg: Any,
    session: Session,
    template: Any,
    objective: Objective,
    advantages: Callable,
    judged: models.CompletionScorer,
    *,
    controller: rollouts.KlController,
    priced: bool,
    extra: Callable[[int, float], Mapping[str, Any]] = lambda step, tokens: {},
    table: list[tuple[str, str]] | None = None,
) -> trainer.Stage:
    """The stage of an objective on rollouts; `priced` says whether the reference has a part in it."""
    asked, lost = rl_scoring.fitting_prompts(
        prompts.read_prompts(cfg.data.data, cfg.data, template, flag="data", train=True),
        cfg,
        template.tokenizer.bos,
    )
    decode = template.tokenizer.decode
    world = worlds.world_of(source.kind for source in source_spec.parse(cfg.data.data))
    size = cfg.data.batch_size * cfg.samples.minibatches
    updates = cfg.samples.epochs * cfg.samples.minibatches

    def start() -> Any:
        return reference_params(session, cfg.run.seed)

    stops = rl_scoring.truncation_tokens(template.tokenizer, cfg.scores)
    scoring = rl_scoring.ScoringConfig(
        judged, template.tokenizer, template.end, stops, world.gold if world else None
    )
    setup = rollouts.RolloutConfig(asked, scoring, advantages, controller, start if priced else None, extra)
    source = rollouts.rollout_batches(cfg, session, setup)
    sample = rl_scoring.with_completion_table(
        session, eval_prompts.eval_sampler(policy_session(session), cfg, template, decode)
    )
    return trainer.Stage(
        objective=objective,
        next_batch=source,
        table=[
            ("prompts", f"{len(asked):,} of {cfg.data.data}"),
            *(("prompts", line) for line in lost),
            (
                "iteration",
                f"{size:,} completions of {size // cfg.samples.group:,} prompts, {updates} updates",
            ),
            *judged.table,
            *(table or []),
        ],
        decode=decode,
        tokens=cfg.data.batch_size * cfg.data.seq_len,
        sample=before_after.with_before_after(session, cfg, template, decode, start, sample),
        expect=expected(cfg, priced),
        carry=rollouts.carry(cfg),
    )


def expected(cfg: Any, priced: bool) -> dict[str, tuple[float, float]]:
    """What the first update must have, since the policy still is the one that sampled, and the reference."""
    near = 1e-3 if transformer.execution(cfg.model).dtype == jnp.float32 else 3e-2
    found = {"val/ratio": (1.0, near), "policy/approxkl_avg": (0.0, near), "policy/clipfrac_avg": (0.0, near)}
    return found | ({"objective/kl": (0.0, 10 * near)} if priced else {})


def ptx_columns(cfg: Any, session: Session, template: Any, weight: float, data: str) -> tuple[Callable, list]:
    """(the columns of PPO-ptx for an update of so many tokens, lines for the table)."""
    if not weight:
        return lambda step, tokens: {}, []
    made = dialogs.prepare(
        dataclasses.replace(cfg.data, data=data, eval_data=""), seed=cfg.run.seed,
        tokenizer=template.tokenizer, template=template, process=session.plan.process,
    )  # fmt: skip

    def extra(step: int, tokens: float) -> dict[str, np.ndarray]:
        rows = made.train.batch(step)
        count = float(gather_rows(session.plan, {"mask": rows["mask"]})["mask"].sum())
        names = ("tokens", "targets", "mask", "segments", "positions", "row")
        scale = np.full(len(rows["row"]), tokens / max(count, 1.0), np.float32)
        return {f"ptx/{name}": rows[name] for name in names} | {"ptx_scale": scale}

    return extra, [(f"pretraining {name}", said) for name, said in made.table]
