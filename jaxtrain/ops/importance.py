"""Importance weights of tokens that another policy sampled than the one whose log-probabilities the trainer has."""

import math

import jax.numpy as jnp
from jax import Array

LEVELS = ("token", "sequence")


def importance_weights(
    logps: Array,
    sampler_logps: Array,
    mask: Array,
    *,
    cap: float = math.inf,
    low: float = 0.0,
    high: float = math.inf,
    level: str = "token",
) -> Array:
    """f32[B, T]: w = min(ρ, cap) where low ≤ ρ ≤ high, else 0, of ρ = π(y_t) / μ(y_t); 0 outside of the mask.

    π is the policy at the first update on the tokens, μ the one that sampled them. The cap alone is truncated
    importance sampling, ρ̄ of equation 1 of arXiv:1802.01561; the bounds alone are IcePop's mask (arXiv:2510.18855),
    there .5 and 5. At level "sequence" ρ is the product over the row's tokens. logps, sampler_logps, mask f32[B, T].
    Raises ValueError on an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level}: choose one of {', '.join(LEVELS)}")
    here = mask > 0
    gap = jnp.where(here, logps - sampler_logps, 0.0)
    if level == "sequence":
        gap = jnp.broadcast_to(gap.sum(1, keepdims=True), gap.shape)
    ratio = jnp.exp(gap)
    inside = here & (ratio >= low) & (ratio <= high)
    return jnp.where(inside, jnp.minimum(ratio, cap), 0.0)


def logp_difference(logps: Array, sampler_logps: Array, mask: Array) -> tuple[Array, Array]:
    """(mean, largest) f32[B]: |log π(y_t) − log μ(y_t)| over each row's tokens; NaN where a row has none."""
    here = mask > 0
    gap = jnp.where(here, jnp.abs(logps - sampler_logps), 0.0)
    count = here.sum(1)
    return jnp.where(count > 0, gap.sum(1) / count, jnp.nan), jnp.where(count > 0, gap.max(1), jnp.nan)
