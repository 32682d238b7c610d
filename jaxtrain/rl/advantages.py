"""Rollouts: what is known of the completions that a policy sampled, and the columns an objective learns from.

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
    bootstrap: bool = False  # a completion that was cut off goes on with the value of its last state
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    group: int = 1  # completions of a prompt, which stand together
    baseline: str = "mean"  # of ops.returns.group_advantages; "none" has no baseline
    scale: str = "std"


def annotate_logps(
    model: LM, critic: ActorCritic | None, temperature: float
) -> Callable[[Params, Params, Batch], dict[str, Array]]:
    """A function (params, reference, batch) -> `old` f32[B, T], and `reference` and `values` where they are known.

    params are a language model's, or with `critic` what it has grown; reference those of a language model, or ().
    """

    def logps(hidden: Array, head: object, batch: Batch) -> Array:
        return token_stats(hidden, head, batch["targets"], temperature=temperature)["logps"]

    def look(params: Params, reference: Params, batch: Batch) -> dict[str, Array]:
        if critic is None:
            found = {"old": logps(model.hidden(params, batch), model.head(params), batch)}
        else:
            hidden, values = critic.look(params, batch)
            found = {"old": logps(hidden, critic.head(params), batch), "values": values}
        if reference != ():
            found["reference"] = logps(model.hidden(reference, batch), model.head(reference), batch)
        return found

    return look


def completion_metrics(rows: Columns, scores: Array, kl_coef: Array | float) -> dict[str, Array]:
    """f32[R] of each completion, by TRL's names: what it scored, its KL from the reference in nats, and more."""
    here = rows["mask"] > 0
    entropy = -jnp.where(here, rows["old"], 0.0).sum(1)
    found = {"objective/scores": scores, "objective/entropy": entropy}
    if "reference" not in rows:
        return found
    kl = jnp.where(here, returns.kl_estimate(rows["old"], rows["reference"], "k1"), 0.0).sum(1)
    price = -kl_coef * kl
    return found | {
        "objective/kl": kl,
        "objective/non_score_reward": price,
        "objective/rlhf_reward": scores + price,
        "objective/kl_coef": jnp.broadcast_to(jnp.asarray(kl_coef, jnp.float32), kl.shape),
    }


def gae_advantages(
    rows: Columns, scores: Array, ended: Array, kl_coef: Array | float, how: AdvantageConfig
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(columns, numbers by completion) of PPO: advantages, returns and old_values f32[R, T] by GAE.

    rows: old, values, reference where there is one, mask f32[R, T], length i32[R] of prompt and completion. Scores
    f32[R] come at the last token, the KL's price at each. A completion that did not end has the value of its last
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
    told = {"val/explained_var": jnp.broadcast_to(explained, scores.shape)}
    columns = {"advantages": advantages, "returns": targets, "old_values": values}
    return columns, {**completion_metrics(rows, scores, kl_coef), **told}


def group_advantages(
    rows: Columns, scores: Array, ended: Array, kl_coef: Array | float, how: AdvantageConfig
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(columns, numbers by completion) without values: every token has its completion's advantage in its group.

    `ended` has no part in it. The KL's price is taken off the score, as RLOO does. Without a baseline (REINFORCE++,
    arXiv:2501.03262) a token's advantage is the return from it on, the price of each KL where it falls due, whitened
    over the rollout.
    """
    mask, told = rows["mask"], completion_metrics(rows, scores, kl_coef)
    if how.baseline == "none":
        rewards = _rewards(rows, scores, kl_coef)
        advantages, _ = returns.gae(rewards, jnp.zeros_like(mask), mask, gamma=how.gamma, lam=1.0)
        if how.whiten_advantages:
            advantages = returns.whiten(advantages, mask)
        return {"advantages": advantages}, told
    compared = functools.partial(
        returns.group_advantages, group=how.group, baseline=how.baseline, scale=how.scale
    )
    found, _ = compared(scores + told.get("objective/non_score_reward", 0.0))
    _, flat = compared(scores)  # without the KL's price, which is seldom the same twice
    spread = jnp.where(mask > 0, found[:, None], 0.0)
    return {"advantages": spread}, {**told, "frac_reward_zero_std": flat}


def _rewards(rows: Columns, scores: Array, kl_coef: Array | float) -> Array:
    old = rows["old"]
    return returns.token_rewards(old, rows.get("reference", old), rows["mask"], scores, kl_coef)
