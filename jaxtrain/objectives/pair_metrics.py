"""Metrics of losses on pairs of completions, as sums over the pairs and their number."""

import jax.numpy as jnp
from jax import Array

from jaxtrain.ops import preference


def means(values: dict[str, Array], present: Array) -> dict[str, tuple[Array, Array]]:
    """{name: (the sum of x f32[B] over the rows of `present` bool[B], their number)}."""
    count = present.sum().astype(jnp.float32)
    return {name: (jnp.where(present, x, 0.0).sum(), count) for name, x in values.items()}


def pair_metrics(reward: Array, logps: Array, present: Array) -> dict[str, tuple[Array, Array]]:
    """`rewards/*` and `logps/*` of rewards f32[B, 2] and log-probabilities f32[B, 2]: 0 chosen, 1 rejected."""
    values = {
        "rewards/chosen": reward[:, 0],
        "rewards/rejected": reward[:, 1],
        "rewards/margins": preference.difference(reward),
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
    }
    return means(values, present)
