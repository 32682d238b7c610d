"""What the on-policy stages share: prompts, scorer, rollouts, samples. Imported once the flags are checked."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxtrain import worlds
from jaxtrain.config import ConfigError, RolloutStageConfig
from jaxtrain.data import prompts, source_spec, special_text
from jaxtrain.data.chat import Template, load_template
from jaxtrain.data.prompts import Prompt
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache
from jaxtrain.models import transformer
from jaxtrain.ops import policy_gradient
from jaxtrain.rewards import functions, models
from jaxtrain.rl import (
    completion_table,
    environment_spec,
    episodes,
    held_out,
    request_samplers,
    rollouts,
    run_report,
    samplers,
    sampling_correction,
    stop_kl,
    watch_scorer,
    watched_reward,
)
from jaxtrain.rl import scoring as rl_scoring
from jaxtrain.rl.config import WatchedStageConfig, iteration_size
from jaxtrain.rl.kl_control import KlController
from jaxtrain.rl.rollout_store import RolloutStore
from jaxtrain.rl.rollouts_ahead import RolloutsAhead
from jaxtrain.stages import before_after, eval_prompts, init_from, trainer
from jaxtrain.stages.session import Session, policy_session, reference_params
from jaxtrain.types import Objective


def check(cfg: WatchedStageConfig, tokenizer: Tokenizer) -> None:
    """Raises ConfigError for flags that contradict each other, and for a reward model that cannot score this policy."""
    s, size = cfg.samples, iteration_size(cfg)
    if size % s.group:
        raise ConfigError(
            f"--group={s.group} completions of a prompt do not divide an iteration's {size} (--batch_size times "
            "--minibatches): use a divisor"
        )
    if any(source.weight != 1 or source.schedule for source in source_spec.parse(cfg.data.data)):
        raise ConfigError(
            f"--data={cfg.data.data}: all prompts are sampled equally often; leave the weights out"
        )
    if cfg.scores.overlong_buffer > s.max_new:
        raise ConfigError(f"--overlong_buffer={cfg.scores.overlong_buffer}: more than --max_new={s.max_new}")
    template = load_template(cfg.data.template, tokenizer)
    models.check(cfg.scores, tokenizer, cfg.data.seq_len, template)
    watch_scorer.check(cfg, tokenizer, template)


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


def fingerprints(cfg: WatchedStageConfig, template: Template) -> dict[str, str]:
    """The fingerprints of a run's data: its prompts, tokenizer and template.

    Raises ConfigError, before a model is loaded, for a reward function that needs more than the prompts' records have.
    """
    read = _read_prompts(cfg, template)
    names = held_out.argument_names(read)
    for reward in watched_reward.reward_functions(cfg):
        functions.check_arguments(reward, names, f"--data={cfg.data.data}")
    digests = environment_spec.digests(cfg.episodes.env, cfg.data)
    digest = cache.digest(*(prompt.ids.tobytes() for prompt in read), *digests)
    return {"data": digest, "tokenizer": template.tokenizer.fingerprint, "template": template.fingerprint}


def _read_prompts(
    cfg: RolloutStageConfig, template: Template, notes: list[str] | None = None
) -> list[Prompt]:
    return prompts.read_prompts(cfg.data.data, cfg.data, template, flag="data", train=True, notes=notes)


def stage(
    cfg: WatchedStageConfig,
    session: Session,
    template: Template,
    objective: Objective,
    advantages: Callable,
    scorer: models.CompletionScorer,
    *,
    controller: KlController,
    priced: bool,
    table: list[tuple[str, str]] | None = None,
    **more: Any,
) -> trainer.Stage:
    """The stage of an objective on rollouts, which `more` are fields of; `priced`: the reference model has a part."""
    notes: list[str] = []
    read = _read_prompts(cfg, template, notes)
    fitting, lines = episodes.usable_rows(read, cfg, template.tokenizer.bos)
    decode = template.tokenizer.decode_completion
    reference = functools.partial(reference_params, session, cfg.run.seed)
    watch = watch_scorer.open_watch(cfg, session)
    how = _scoring(cfg, session, template, scorer)
    setup = rollouts.RolloutConfig(
        prompts=fitting,
        scoring=how._replace(watch=watch and watch.rollouts),
        advantages=sampling_correction.corrected(advantages, cfg.sampler),
        controller=controller,
        reference=reference if priced else None,
        ahead=RolloutsAhead(cfg, session),
        **{"sampler": samplers.sampler_of(cfg, template), "requests": request_samplers.maker_of(cfg), **more},
    )
    answers = eval_prompts.eval_answers(policy_session(session), cfg, template)
    sample = completion_table.with_completion_table(
        session, eval_prompts.eval_sampler(policy_session(session), cfg, template, decode, answers=answers)
    )
    evaluate, held_out_lines = held_out.evaluator(cfg, session, how, watch, answers)
    store = RolloutStore(cfg, session, controller.coef, setup.ahead)
    training = trainer.Stage(
        objective=objective,
        next_batch=rollouts.rollout_batches(cfg, session, setup, store),
        table=[
            ("prompts", f"{len(fitting):,} of {cfg.data.data}"),
            *(("prompts", line) for line in (*lines, *notes)),
            *samplers.table(cfg, template),
            *scorer.table,
            *held_out_lines,
            *(table or []),
        ],
        decode=special_text.marked_decoder(template.tokenizer),
        tokens=cfg.data.batch_size * cfg.data.seq_len,
        score=evaluate,
        sample=before_after.with_before_after(session, cfg, template, decode, reference, sample),
        expect=expected(transformer.compute_dtype(cfg.model, session.plan.platform), priced),
        carry=stop_kl.carry(cfg),
        meta=store.meta,
        unusable=store.unusable,
        ended=store.rewards.ended,
    )
    return setup.ahead.waited_for(training)


def _scoring(
    cfg: WatchedStageConfig, session: Session, template: Template, scorer: models.CompletionScorer
) -> rl_scoring.ScoringConfig:
    world = worlds.world_of(source.kind for source in source_spec.parse(cfg.data.data))
    return rl_scoring.ScoringConfig(
        scorer=scorer,
        tokenizer=template.tokenizer,
        ends=init_from.end_ids(session.start, template.ends),
        truncation_tokens=rl_scoring.truncation_tokens(template.tokenizer, cfg.scores),
        gold=world.gold if world else None,
    )


def train(cfg: WatchedStageConfig, session: Session, training: trainer.Stage) -> None:
    """Trains; once it is done, or over by --stop_on_overoptimisation, prints what the metrics say and draws them."""
    state = trainer.train(cfg, session, training)
    if not cfg.run.dry_run and (training.ended() or int(session.plan.get(state.step)) >= cfg.run.steps):
        run_report.write(cfg, session)


def expected(dtype: Any, priced: bool) -> dict[str, tuple[float, float]]:
    """The first update's metrics, (value, tolerance): the policy is still the one that sampled, and the reference."""
    near = 1e-3 if dtype == jnp.float32 else 3e-2
    kl = {"objective/kl": (0.0, 10 * near)} if priced else {}
    return {
        "val/ratio": (1.0, near),
        "policy/approxkl_avg": (0.0, near),
        "policy/clipfrac_avg": (0.0, near),
    } | kl
