"""Batches of an on-policy stage: completions of the policy, scored, stored on disk, and trained on in updates.

An iteration is one rollout and the updates on it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtrain.config import RolloutStageConfig
from jaxtrain.data.prompts import Prompt
from jaxtrain.files import progress
from jaxtrain.rewards.function_args import TrainerState
from jaxtrain.rl import (
    advantages,
    completion_table,
    entropy_control,
    flat_groups,
    kl_control,
    scoring,
    stop_kl,
)
from jaxtrain.rl.completion_table import FOLDER
from jaxtrain.rl.config import iteration_size
from jaxtrain.rl.entropy_control import EntropyControl
from jaxtrain.rl.kl_control import KlController
from jaxtrain.rl.rollout_store import Rollout, RolloutStore
from jaxtrain.rl.rollouts_ahead import RolloutsAhead
from jaxtrain.rl.scoring import Columns, ScoredBatch, ScoringConfig
from jaxtrain.stages import sampling
from jaxtrain.stages.session import Session, policy_session
from jaxtrain.train import loop
from jaxtrain.types import ActorCritic, Params, TrainState

ROWS = ("tokens", "targets", "mask", "segments", "positions")


class RolloutConfig(NamedTuple):
    """What an on-policy stage brings to its rollouts."""

    prompts: list[Prompt]
    scoring: ScoringConfig
    advantages: Callable[..., tuple[Columns, Columns]]  # of rl/advantages.py, with its settings
    controller: KlController
    reference: Callable[[], Params] | None  # loads the reference model of a stage with a KL penalty
    # (update, tokens in the loss) -> further columns of this host's rows
    extra: Callable[[int, float], Columns] = lambda step, tokens: {}
    sampler: Callable[..., flat_groups.Sample] | None = None  # completion_sampler where there is none
    ahead: RolloutsAhead | None = None  # samples the next iteration's completions
    requests: Callable[..., Any] | None = None  # like stages.sampling.request_sampler, which it is by default
    arrange: Callable[[Columns], Columns] = dict  # the rollout's columns as rows of a batch
    entropy: EntropyControl = EntropyControl()


def rollout_batches(
    cfg: RolloutStageConfig, session: Session, setup: RolloutConfig, store: RolloutStore
) -> Callable[[int], loop.NextBatch]:
    """The stage's batches: next_batch(first) goes on from update `first`, with the store's current rollout."""
    next_rollout = _rollout_fn(cfg, session, setup)
    updates = cfg.samples.epochs * cfg.samples.minibatches

    def batches_from(first: int) -> loop.NextBatch:
        rollout, step = store.current(), first

        def next_batch(state: TrainState) -> Columns:
            nonlocal rollout, step
            done = step - rollout.first
            if rollout.columns and (done >= updates or stop_kl.stopped(cfg, session, state, done)):
                rollout = rollout.following()
            if not rollout.columns:
                rollout = next_rollout(state, rollout._replace(first=step, iteration=rollout.iteration + 1))
                store.save(rollout)
            if step == rollout.first:
                setup.ahead.start(state, rollout)
            rows = _rows(cfg, rollout, step - rollout.first)
            local = session.plan.local_rows(len(rows))
            own = {name: x[rows[local]] for name, x in rollout.columns.items()}
            extra = setup.extra(step, float(rollout.columns["mask"][rows].sum()))
            step += 1
            return own | extra | {"row": np.arange(len(rows), dtype=np.int32)[local]}

        return next_batch

    return batches_from


def _rows(cfg: RolloutStageConfig, rollout: Rollout, update: int) -> np.ndarray:
    """i32[B], rows of an update: each epoch takes the rollout's in its own order."""
    epoch, part = divmod(update, cfg.samples.minibatches)
    rng = np.random.default_rng((cfg.run.seed, rollout.first, epoch))
    order = rng.permutation(len(rollout.columns["tokens"]))
    size = len(order) // cfg.samples.minibatches
    return order[part * size : (part + 1) * size]


def _rollout_fn(
    cfg: RolloutStageConfig, session: Session, setup: RolloutConfig
) -> Callable[[TrainState, Rollout], Rollout]:
    """A function (state, an empty rollout) -> the rollout of the policy in the state."""
    s, size = cfg.samples, iteration_size(cfg)
    draw = setup.ahead.of(flat_groups.filler(cfg, (setup.sampler or completion_sampler)(cfg, session, setup)))
    annotate = _annotate_fn(cfg, session, setup)
    advantages = jax.jit(setup.advantages)
    say = flat_groups.warner(session, s.group)

    def next_rollout(state: TrainState, empty: Rollout) -> Rollout:
        batch, taken = draw(state, empty.taken)
        rows = batch.rows | annotate(state.params, batch.rows)
        # What no reward function scores is not trained on.
        rows["mask"] = rows["mask"] * batch.scored[:, None]
        columns, metrics = jax.tree.map(
            np.asarray, advantages(rows, batch.scores, batch.ended, np.float32(empty.kl_coef))
        )
        metrics |= batch.stats
        say(batch, metrics)
        lines = completion_table.rollout_lines(batch, metrics)
        sampling.write_sample(session, f"{FOLDER}/{empty.first:08d}.jsonl", lines)
        columns |= {name: rows[name] for name in (*ROWS, "old_logps", "ref_logps") if name in rows}
        if cfg.scores.truncated == "mask":
            columns["mask"] = rows["mask"] * batch.ended[:, None]
        stats = {f"stats/{name}": x.astype(np.float32) for name, x in metrics.items()}
        coef = kl_control.next_coef(setup.controller, empty.kl_coef, metrics, size)
        columns = setup.arrange(columns | stats)
        rollout = empty._replace(columns=columns, next_taken=taken, next_kl_coef=coef)
        return entropy_control.controlled(setup.entropy, rollout)

    return next_rollout


def completion_sampler(cfg: RolloutStageConfig, session: Session, setup: RolloutConfig) -> flat_groups.Sample:
    """A function (state, prompts taken before, groups) -> scored completions of the next prompts."""
    s, size = cfg.samples, iteration_size(cfg)
    sample_tokens = sampling.token_sampler(
        policy_session(session),
        setup.scoring.ends if s.stop_at_end else (),
        max_new=s.max_new,
        temperature=s.temperature,
        samples=s.group,
        requests=setup.requests,
    )

    def sample(state: TrainState, taken: int, groups: int = size // s.group) -> ScoredBatch:
        order = prompt_order(len(setup.prompts), cfg.run.seed, taken, groups)
        prompts = [setup.prompts[i] for i in order]
        seed = int(np.random.SeedSequence((cfg.run.seed, 1, taken)).generate_state(1)[0])
        ids = [prompt.ids.tolist() for prompt in prompts]
        completions = sample_tokens(state.params, session.base, ids, seed)
        by_completion = [prompt for prompt in prompts for _ in range(s.group)]
        progress = TrainerState(
            int(session.plan.get(state.step)), cfg.run.steps, epoch=taken / len(setup.prompts)
        )
        return scoring.score_completions(cfg, setup.scoring, by_completion, completions, progress)

    return sample


def _annotate_fn(
    cfg: RolloutStageConfig, session: Session, setup: RolloutConfig
) -> Callable[[Params, Columns], Columns]:
    """A function (trained, rows [R, T]) -> annotate_logps' columns, --batch_size rows at a time."""
    compiled = annotate_program(session, cfg.samples.temperature)
    reference = setup.reference() if setup.reference else ()
    B, local = cfg.data.batch_size, session.plan.local_rows(cfg.data.batch_size)

    def annotated(params: Params, rows: Columns) -> Columns:
        parts = []
        for first in range(0, len(rows["tokens"]), B):
            progress.stop_point(f"log-probabilities, row {first} of a rollout")
            part = session.plan.put({name: rows[name][first : first + B][local] for name in ROWS})
            parts.append(compiled(params, (session.base, reference), part))
        parts = [session.plan.get(part) for part in parts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return annotated


def annotate_program(session: Session, temperature: float) -> Callable[..., Columns]:
    """A compiled function (trained, (base, reference), rows) -> annotate_logps' columns."""
    critic = session.heads if isinstance(session.heads, ActorCritic) else None
    annotate = advantages.annotate_logps(session.model, critic, temperature)
    return session.plan.rows(
        lambda params, frozen, rows: annotate(session.trained.whole(params, frozen[0]), frozen[1], rows)
    )


def prompt_order(count: int, seed: int, taken: int, more: int) -> list[int]:
    """Numbers of the next `more` prompts: in each epoch every prompt once, in the epoch's own order."""
    orders = {
        epoch: np.random.default_rng((seed, 2, epoch)).permutation(count)
        for epoch in range(taken // count, (taken + more - 1) // count + 1)
    }
    return [int(orders[i // count][i % count]) for i in range(taken, taken + more)]
