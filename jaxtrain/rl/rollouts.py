"""Batches of an on-policy stage: completions of the present policy, scored, kept on disk, and learnt from in updates.

An iteration is one rollout and the updates on it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.data.prompts import Prompt
from jaxtrain.ops import returns
from jaxtrain.rl import advantages, rollout_store, scoring
from jaxtrain.rl.rollout_store import Rollout
from jaxtrain.rl.scoring import FOLDER, Columns, ScoredBatch, ScoringConfig
from jaxtrain.stages import sampling
from jaxtrain.stages.session import Session, policy_session
from jaxtrain.train import loop
from jaxtrain.types import ActorCritic, Metrics, Params, TrainState

ROWS = ("tokens", "targets", "mask", "segments", "positions")


class KlController(NamedTuple):
    """The price of a nat of KL, and how it follows the target; target 0 leaves it as it is."""

    coef: float
    target: float = 0.0
    horizon: float = 10_000.0


class RolloutConfig(NamedTuple):
    """What an on-policy stage brings to its rollouts."""

    asked: list[Prompt]
    scoring: ScoringConfig
    advantages: Callable[..., tuple[Columns, Columns]]  # of rl/advantages.py, with its settings
    controller: KlController
    reference: Callable[[], Params] | None  # of a stage that prices the KL from it
    extra: Callable[
        [int, float], Columns
    ]  # (update, tokens in the loss) -> further columns of this host's rows


def rollout_batches(cfg: Any, session: Session, setup: RolloutConfig) -> Callable[[int], loop.NextBatch]:
    """The stage's batches: next_batch(first) goes on from update `first`, from what is on disk."""
    roll = _roller(cfg, session, setup)
    updates, here = (
        cfg.samples.epochs * cfg.samples.minibatches,
        session.plan.local_slice(cfg.data.batch_size),
    )

    def begin(first: int) -> loop.NextBatch:
        held, step = rollout_store.load_rollout(session, first, setup.controller.coef), first

        def next_batch(state: TrainState) -> Columns:
            nonlocal held, step
            if held.columns and (
                step - held.first >= updates or _stopped(cfg, session, state, step - held.first)
            ):
                held = held._replace(columns={}, taken=held.next_taken, kl_coef=held.next_kl_coef)
            if not held.columns:
                held = roll(state, held._replace(first=step, iteration=held.iteration + 1))
                rollout_store.save_rollout(session, held)
            rows = _rows(cfg, held, step - held.first)
            own = {name: x[rows[here]] for name, x in held.columns.items()}
            more = setup.extra(step, float(held.columns["mask"][rows].sum()))
            step += 1
            return own | more | {"row": np.arange(len(rows), dtype=np.int32)[here]}

        return next_batch

    return begin


def _stopped(cfg: Any, session: Session, state: TrainState, done: int) -> bool:
    """Whether the last update went further than --stop_kl allows."""
    return bool(
        cfg.samples.stop_kl
        and done
        and float(session.plan.get(state.extra["approxkl"])) > cfg.samples.stop_kl
    )


def first_extra(cfg: Any) -> Any:
    """The first TrainState.extra."""
    return {"approxkl": jnp.zeros(())} if cfg.samples.stop_kl else ()


def carry(cfg: Any) -> Callable[[Any, Metrics], Any] | None:
    """The last update's distance from the policy that sampled, for --stop_kl."""
    if not cfg.samples.stop_kl:
        return None

    def after(extra: Any, metrics: Metrics) -> Any:
        total, count = metrics["policy/approxkl_avg"]
        return {"approxkl": total / jnp.maximum(count, 1.0)}

    return after


def _rows(cfg: Any, held: Rollout, update: int) -> np.ndarray:
    """Rows of an update, in all B: each epoch takes the rollout's in an order of its own."""
    epoch, part = divmod(update, cfg.samples.minibatches)
    order = np.random.default_rng((cfg.run.seed, held.first, epoch)).permutation(len(held.columns["tokens"]))
    return order[part * cfg.data.batch_size : (part + 1) * cfg.data.batch_size]


def _roller(cfg: Any, session: Session, setup: RolloutConfig) -> Callable[[TrainState, Rollout], Rollout]:
    s, size = cfg.samples, cfg.data.batch_size * cfg.samples.minibatches
    draw = sampling.token_sampler(
        policy_session(session),
        setup.scoring.end if s.stop_at_end else -1,
        max_new=s.max_new,
        temperature=s.temperature,
        samples=s.group,
    )
    annotated = _annotator(cfg, session, setup)
    advantages = jax.jit(setup.advantages)

    def drawn(state: TrainState, taken: int) -> ScoredBatch:
        asked = [setup.asked[i] for i in prompt_order(len(setup.asked), cfg.run.seed, taken, size // s.group)]
        seed = int(np.random.SeedSequence((cfg.run.seed, 1, taken)).generate_state(1)[0])
        found = draw(state.params, session.base, [each.ids.tolist() for each in asked], seed)
        return scoring.score_completions(
            cfg, setup.scoring, [each for each in asked for _ in range(s.group)], found
        )

    def roll(state: TrainState, begun: Rollout) -> Rollout:
        made, taken = drawn(state, begun.taken), begun.taken + size // s.group
        replaced = np.zeros(size, bool)
        for _ in range(s.resample):
            if not _flat(made, s.group).any():
                break
            made, fresh = _refilled(made, drawn(state, taken), s.group)
            replaced, taken = replaced | fresh, taken + size // s.group
        rows = made.rows | annotated(state.params, made.rows)
        columns, told = jax.tree.map(
            np.asarray, advantages(rows, made.scores, made.ended, np.float32(begun.kl_coef))
        )
        told |= made.stats
        if s.resample:
            told["completions/redrawn"] = replaced
        sampling.write_sample(session, f"{FOLDER}/{begun.first:08d}.jsonl", scoring.rollout_lines(made, told))
        columns |= {name: rows[name] for name in (*ROWS, "old", "reference") if name in rows}
        if cfg.scores.truncated == "mask":
            columns["mask"] = rows["mask"] * made.ended[:, None]
        stats = {f"stats/{name}": x.astype(np.float32) for name, x in told.items()}
        coef = _next_coef(setup.controller, begun.kl_coef, told, size)
        return begun._replace(columns=columns | stats, next_taken=taken, next_kl_coef=coef)

    return roll


def _annotator(cfg: Any, session: Session, setup: RolloutConfig) -> Callable[[Params, Columns], Columns]:
    """(trained, rows [R, T]) -> rollout.annotate's columns, --batch_size rows at a time."""
    critic = session.heads if isinstance(session.heads, ActorCritic) else None
    look = advantages.annotate_logps(session.model, critic, cfg.samples.temperature)
    compiled = session.plan.rows(
        lambda params, frozen, rows: look(session.trained.whole(params, frozen[0]), frozen[1], rows)
    )
    reference = setup.reference() if setup.reference else ()
    B, here = cfg.data.batch_size, session.plan.local_slice(cfg.data.batch_size)

    def annotated(params: Params, rows: Columns) -> Columns:
        parts = []
        for first in range(0, len(rows["tokens"]), B):
            part = session.plan.put({name: rows[name][first : first + B][here] for name in ROWS})
            parts.append(compiled(params, (session.base, reference), part))
        parts = [session.plan.get(part) for part in parts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return annotated


def _next_coef(controller: KlController, coef: float, told: Mapping[str, np.ndarray], episodes: int) -> float:
    if not controller.target:
        return coef
    kl = told["objective/kl"].mean()
    return float(
        returns.adaptive_kl(coef, kl, target=controller.target, horizon=controller.horizon, episodes=episodes)
    )


def prompt_order(count: int, seed: int, taken: int, more: int) -> list[int]:
    """Numbers of the next prompts: every prompt once, in an order of the epoch's own, then again."""
    orders = {
        epoch: np.random.default_rng((seed, 2, epoch)).permutation(count)
        for epoch in range(taken // count, (taken + more - 1) // count + 1)
    }
    return [int(orders[i // count][i % count]) for i in range(taken, taken + more)]


def _flat(made: ScoredBatch, group: int) -> np.ndarray:
    """bool[R / G]: groups whose scores are all equal, from which nothing is learnt."""
    return np.ptp(made.scores.reshape(-1, group), axis=1) == 0


def _refilled(made: ScoredBatch, fresh: ScoredBatch, group: int) -> tuple[ScoredBatch, np.ndarray]:
    """The rollout with its flat groups replaced, as far as they go, by those of a fresh one that are not.

    With it bool[R], which rows are new.
    """
    R = len(made.scores)
    groups, spare = np.arange(R // group), np.flatnonzero(~_flat(fresh, group)) + R // group
    gaps = np.flatnonzero(_flat(made, group))[: len(spare)]
    groups[gaps] = spare[: len(gaps)]
    rows = (groups[:, None] * group + np.arange(group)).ravel()
    return jax.tree.map(lambda a, b: np.concatenate([a, b])[rows], made, fresh), rows >= R
