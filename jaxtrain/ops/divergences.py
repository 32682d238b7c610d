"""Divergences between a teacher's and a student's distribution of the next token, in nats.

What the teacher says is a constant: no gradient goes into it. Outcomes without probability add nothing, also where
their log-probability is −∞.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

# The least mass of what is beyond the teacher's top-k: rounding in f32 hides less than this.
LEAST_REST = 2.0**-20


def kl(p: Array, q: Array) -> Array:
    """KL(p ‖ q) = Σ_v p_v (log p_v − log q_v), f32[...], from log-probabilities f32[..., V]."""
    there = p > -jnp.inf
    gap = jnp.where(there, p, 0.0) - jnp.where(there, q, 0.0)
    return (jnp.where(there, jnp.exp(p), 0.0) * gap).sum(-1)


def jsd(teacher: Array, student: Array, beta: float) -> Array:
    """β KL(T ‖ M) + (1 − β) KL(S ‖ M) with M = β T + (1 − β) S, f32[...], of log-probabilities f32[..., V].

    The generalised Jensen-Shannon divergence, equation 1 of GKD (arXiv:2306.13649). It is 0 at both ends; divided by β
    its limit at 0 is KL(T ‖ S), and by 1 − β at 1 KL(S ‖ T). As in GKD's experiments, β = 0 and 1 are these two.
    """
    if beta in (0, 1):
        return kl(student, teacher) if beta else kl(teacher, student)
    mixed = jnp.logaddexp(jnp.log(beta) + teacher, jnp.log1p(-beta) + student)
    return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)


# (teacher, student, β) -> f32[...] of log-probabilities f32[..., V].
DIVERGENCES: Mapping[str, Callable[[Array, Array, float], Array]] = {
    "forward_kl": lambda teacher, student, beta: kl(teacher, student),
    "reverse_kl": lambda teacher, student, beta: kl(student, teacher),
    "jsd": jsd,
}


def divergence(
    teacher: Array, student: Array, kind: str, *, beta: float = 0.5, temperature: float = 1.0
) -> Array:
    """A divergence of DIVERGENCES at a temperature, f32[...], from logits teacher f32[..., V] and student f32[..., V'].

    Of the longer one the last logits, which pad a vocabulary, are left out. Not multiplied by T².
    """
    shared = min(teacher.shape[-1], student.shape[-1])
    t, s = (
        jax.nn.log_softmax(x[..., :shared].astype(jnp.float32) / temperature, -1) for x in (teacher, student)
    )
    return DIVERGENCES[kind](jax.lax.stop_gradient(t), s, beta)


def top_k(logits: Array, k: int, temperature: float = 1.0) -> tuple[Array, Array]:
    """(ids i32[..., k], log-probabilities f32[..., k]) of the k likeliest of logits f32[..., V]."""
    logps = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, -1)
    values, ids = jax.lax.top_k(logps, k)
    return ids.astype(jnp.int32), values


def divergence_of_top(
    ids: Array, logps: Array, student: Array, kind: str, *, beta: float = 0.5, temperature: float = 1.0
) -> Array:
    """A divergence over k + 1 outcomes, f32[...]: the teacher's k likeliest tokens, and all others as one.

    ids i32[..., k] are distinct, −1 where there are fewer than k, and those that the student does not have count among
    the others; logps f32[..., k] are the teacher's at the
    temperature, which divides the student's logits f32[..., V] too. The mass of the others is what is left of 1, never
    renormalised, and at least 2⁻²⁰: joining outcomes can only lower a divergence (the data-processing inequality), so
    this is a lower bound of the one over all tokens. 0 where no token is given.
    """
    x, V = student / temperature, student.shape[-1]
    there = (ids >= 0) & (ids < V)
    whole = jax.nn.logsumexp(x, -1, keepdims=True)
    at = jnp.where(there, ids, V)  # beyond the end: dropped
    seen = jnp.take_along_axis(x, jnp.where(there, ids, 0), -1) - whole
    others = jnp.put_along_axis(x, at, -jnp.inf, -1, inplace=False, mode="drop")
    # What −∞ would do to the gradient of a sum without terms is kept from it.
    any_left = (others > -jnp.inf).any(-1, keepdims=True)
    rest = jax.nn.logsumexp(jnp.where(any_left, others, 0.0), -1, keepdims=True) - whole
    s = jnp.concatenate([jnp.where(there, seen, -jnp.inf), jnp.where(any_left, rest, -jnp.inf)], -1)
    given = jnp.where(there, logps.astype(jnp.float32), -jnp.inf)
    left = jnp.maximum(1.0 - jnp.exp(given).sum(-1, keepdims=True), LEAST_REST)
    t = jnp.concatenate([given, jnp.where(any_left, jnp.log(left), -jnp.inf)], -1)
    return DIVERGENCES[kind](jax.lax.stop_gradient(t), s, beta)
