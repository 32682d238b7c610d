"""Advantages of rollouts, and the log-probabilities and values that they are computed from.

All advantages are of the whole rollout, over all devices and hosts, and are whitened here, once.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxtrain.ops import returns
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.types import LM, ActorCritic, Batch, Params

Columns = Mapping[str, Array]


class AdvantageConfig(NamedTuple):
    """How scores become advantages."""

    gamma: float = 1.0
    lam: float = 0.95
    bootstrap: bool = False  # a completion that was cut off has the value of its last state after it
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    group: int = 1  # completions of a prompt, in consecutive rows
    baseline: str = "mean"  # of ops.returns.group_advantages; "batch": all other scores; "none": no baseline
    scale: str = "std"


def annotate_logps(
    model: LM, critic: ActorCritic | None, temperature: float
) -> Callable[[Params, Params, Batch], dict[str, Array]]:
    """A function (params, reference, batch) -> old_logps f32[B, T], with `reference` ref_logps, with `critic` values.

    params are a language model's, or with `critic` those of both; reference those of a language model, or ().
    """

    def logps(hidden: Array, head: object, batch: Batch) -> Array:
        return token_stats(hidden, head, batch["targets"], temperature=temperature)["logps"]

    def annotate(params: Params, reference: Params, batch: Batch) -> dict[str, Array]:
        if critic is None:
            columns = {"old_logps": logps(model.hidden(params, batch), model.head(params), batch)}
        else:
            hidden, values = critic.look(params, batch)
            columns = {"old_logps": logps(hidden, critic.head(params), batch), "values": values}
        if reference != ():
            columns["ref_logps"] = logps(model.hidden(reference, batch), model.head(reference), batch)
        return columns

    return annotate


def completion_metrics(rows: Columns, scores: Array, kl_coef: Array | float) -> dict[str, Array]:
    """Metrics f32[R] by completion, by TRL's names: its score, its KL from the reference in nats, and more."""
    inside = rows["mask"] > 0
    entropy = -jnp.where(inside, rows["old_logps"], 0.0).sum(1)
    metrics = {"objective/scores": scores, "objective/entropy": entropy}
    if "ref_logps" not in rows:
        return metrics
    kl = jnp.where(inside, returns.kl_estimate(rows["old_logps"], rows["ref_logps"], "k1"), 0.0).sum(1)
    penalty = -kl_coef * kl
    return metrics | {
        "objective/kl": kl,
        "objective/non_score_reward": penalty,
        "objective/rlhf_reward": scores + penalty,
        "objective/kl_coef": jnp.broadcast_to(jnp.asarray(kl_coef, jnp.float32), kl.shape),
    }


def gae_advantages(
    rows: Columns, scores: Array, ended: Array, kl_coef: Array | float, how: AdvantageConfig
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(columns, metrics by completion) of PPO: advantages, returns and old_values f32[R, T] by GAE.

    rows: old_logps, values, with a reference ref_logps, mask f32[R, T], length i32[R] of prompt and completion. Scores
    f32[R] come at the last token, the KL penalty at each. A completion that did not end has the value of its last
    state after it, where `bootstrap` says so.
    """
    mask, values = rows["mask"], rows["values"]
    rewards = _rewards(rows, scores, kl_coef)
    if how.whiten_rewards:
        rewards = returns.whiten(rewards, mask, shift=False)
    last = jnp.take_along_axis(values, rows["length"][:, None] - 1, 1)[:, 0]
    bootstrap = jnp.where(ended, 0.0, last) if how.bootstrap else None
    advantages, targets = returns.gae(
        rewards, values, mask, gamma=how.gamma, lam=how.lam, bootstrap=bootstrap
    )
    if how.whiten_advantages:
        advantages = returns.whiten(advantages, mask)
    explained = returns.explained_variance(targets, values, mask)
    columns = {"advantages": advantages, "returns": targets, "old_values": values}
    metrics = completion_metrics(rows, scores, kl_coef)
    return columns, {**metrics, "val/explained_var": jnp.broadcast_to(explained, scores.shape)}


def group_advantages(
    rows: Columns, scores: Array, ended: Array, kl_coef: Array | float, how: AdvantageConfig
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(columns, metrics by completion) without values: every token has its completion's advantage in its group.

    `ended` has no part in it. The KL penalty is taken off the score, as RLOO does. Without a baseline (REINFORCE++,
    arXiv:2501.03262) a token's advantage is the return from it on, the KL penalty at each token, whitened over the
    rollout.
    """
    mask, metrics = rows["mask"], completion_metrics(rows, scores, kl_coef)
    if how.baseline == "none":
        rewards = _rewards(rows, scores, kl_coef)
        advantages, _ = returns.gae(rewards, jnp.zeros_like(mask), mask, gamma=how.gamma, lam=1.0)
        if how.whiten_advantages:
            advantages = returns.whiten(advantages, mask)
        return {"advantages": advantages}, metrics
    # Leave-one-out over the rollout (REINFORCE++): all of it is one group.
    whole = how.baseline == "batch"
    group, baseline = (scores.shape[0], "others") if whole else (how.group, how.baseline)
    in_groups = functools.partial(returns.group_advantages, group=group, baseline=baseline, scale=how.scale)
    advantages, _ = in_groups(scores + metrics.get("objective/non_score_reward", 0.0))
    _, flat = in_groups(scores)  # without the KL penalty, which is seldom the same twice
    by_token = jnp.where(mask > 0, advantages[:, None], 0.0)
    return {"advantages": by_token}, {**metrics, "frac_reward_zero_std": flat}


def _rewards(rows: Columns, scores: Array, kl_coef: Array | float) -> Array:
    """Rewards of tokens f32[R, T]; of a score `turn_rewards` f32[R, T] stand where they are, the rest at the end."""
    old, turns = rows["old_logps"], rows.get("turn_rewards", jnp.zeros((1, 1)))
    rest = scores - turns.sum(1)
    return returns.token_rewards(old, rows.get("ref_logps", old), rows["mask"], rest, kl_coef) + turns
