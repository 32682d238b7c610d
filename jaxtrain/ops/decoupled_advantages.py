"""Advantages of several rewards, each normalised by itself before they are added (GDPO)."""

import jax.numpy as jnp
from jax import Array

from jaxtrain.ops.returns import GROUP_EPS, group_advantages


def decoupled_advantages(rewards: Array, weights: Array, group: int) -> tuple[Array, Array]:
    """(advantages, flat) f32[B] of rewards f32[B, K], of which rows i·G to i·G + G − 1 are samples of one prompt.

    With A_k the group advantage of reward k, (r_k − its group's mean) / (its group's standard deviation + 1e-4), and
    S = Σ_k weights_k · A_k: A = (S − mean S) / (std S + 1e-4), both over the batch. GDPO, arXiv:2601.05242, section 3.
    Standard deviations are Bessel-corrected, as in GRPO here. `flat` is 1 where all K rewards are equal in the group.

    A reward of NaN does not apply: it adds nothing to S. A row without any has advantage 0, and is out of mean and std.
    weights f32[K]. Raises ValueError where ops.returns.group_advantages does.
    """
    parts, flats = zip(*(group_advantages(one, group) for one in rewards.T), strict=True)
    there = ~jnp.isnan(rewards).all(1)
    total = (jnp.stack(parts, 1) * weights).sum(1)
    count = jnp.maximum(there.sum(), 1)
    centred = jnp.where(there, total - jnp.where(there, total, 0.0).sum() / count, 0.0)
    spread = jnp.sqrt((centred**2).sum() / jnp.maximum(count - 1, 1))
    return centred / (spread + GROUP_EPS), jnp.stack(flats, 1).min(1)
