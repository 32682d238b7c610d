"""Drawing tokens from logits."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

HOW = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
)  # sampling parameters, columns of a batch
LOW_TEMPERATURE = 1e-6


def uniforms(seeds: Array, index: Array) -> Array:
    """f32[B, n] in [0, 1), multiples of 2⁻²⁴: number index i32[B, n] of the stream of each row's seed u32[B]."""

    def one(seed: Array, i: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(jax.random.key(seed), i))

    bits = jax.vmap(jax.vmap(one, (None, 0)))(seeds, index)
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def penalised(x: Array, seen: Array, penalty: Array) -> Array:
    """Logits f32[B, V] with those of seen tokens, seen bool[B, V], made less likely: x/θ, or θx below 0.

    CTRL, section 4.1 (arXiv:1909.05858), with the sign that its text leaves out; θ f32[B], 1 changes nothing. What was
    there is the prompt and the completion, as in Hugging Face's.
    """
    theta = penalty[:, None]
    return jnp.where(seen, jnp.where(x > 0, x / theta, x * theta), x)


def draw(u: Array, x: Array, how: Mapping[str, Array], seen: Array | None = None) -> tuple[Array, Array]:
    """Tokens i32[B] from logits f32[B, V] by uniform numbers u f32[B], and their log-probabilities f32[B].

    `how` has columns [B] of HOW. One that is absent costs nothing, and one that changes no row little. In this order:
    the repetition penalty (with `seen`); temperature divides; the top_k largest are kept (0: all); the smallest set of
    most likely tokens whose probability reaches top_p (nucleus sampling, arXiv:1904.09751); tokens of at least min_p
    times the largest probability (arXiv:2407.01082). Tokens as likely as the last one kept are kept too. Temperature 0
    takes the most likely token; its log-probability is under temperature 1. The log-probability is under the
    distribution drawn from: what is left, renormalised.

    The token is the first whose cumulative probability exceeds u. u has 24 bits and the sum is in f32, so each
    probability is off by at most about V · 2⁻²⁴ of the whole; one that a filter removed is never drawn.
    """
    if "repetition_penalty" in how:
        x = penalised(x, seen, how["repetition_penalty"])
    if "temperature" in how:
        t = how["temperature"]
        # A quotient may be beyond f32: where the temperature is that low, differences to the largest logit are divided.
        low = (t > 0) & (t < LOW_TEMPERATURE)
        x = _where_any(low, lambda x: x - jnp.where(low[:, None], x.max(-1, keepdims=True), 0), x)
        x = x / jnp.where(t > 0, t, 1.0)[:, None]
    x = _filtered(x, how)
    top = x.max(-1, keepdims=True)
    share = jnp.exp(x - top)
    reached = jnp.where(share > 0, jnp.cumsum(share, -1), 0.0)
    # Strictly below the largest, so that some token exceeds it whatever way the sums were rounded.
    whole = reached.max(-1)
    beyond = reached > jnp.minimum(u * whole, jnp.nextafter(whole, 0.0))[:, None]
    token = _first(beyond)
    if "temperature" in how:
        token = jnp.where(t > 0, token, _first(x == top))
    taken = jnp.take_along_axis(x - top, token[:, None], -1)[:, 0]
    return token, taken - jnp.log(share.sum(-1))


def _first(marks: Array) -> Array:
    """i32[B], the place of the first mark in bool[B, V]; V - 1 if there is none, as where logits are NaN."""
    V = marks.shape[-1]
    return jnp.where(marks, jnp.arange(V), V - 1).min(-1).astype(jnp.int32)


def _filtered(x: Array, how: Mapping[str, Array]) -> Array:
    if "top_k" in how:
        k = how["top_k"]
        least = jnp.where(k > 0, k, x.shape[-1])
        x = _where_any(k > 0, lambda x: _kept(x, lambda above: above.sum(-1) < least), x)
    if "top_p" in how:  # whatever it is, the most likely token is kept
        p = jnp.maximum(how["top_p"], jnp.finfo(jnp.float32).tiny)
        x = _where_any(p < 1, lambda x: _nucleus(x, p), x)
    if "min_p" in how:
        least = jnp.log(jnp.minimum(how["min_p"], 1.0))[:, None]
        x = jnp.where(x < x.max(-1, keepdims=True) + least, -jnp.inf, x)
    return x


def _nucleus(x: Array, p: Array) -> Array:
    share = jax.nn.softmax(x, -1)
    return _kept(x, lambda above: (jnp.where(above, share, 0.0).sum(-1) < p) | (p >= 1))


def _where_any(active: Array, f: Callable[[Array], Array], x: Array) -> Array:
    """f(x), or x itself without its cost where it acts in no row; active bool[B]."""
    return jax.lax.cond(active.any(), f, lambda x: x, x)


def _kept(x: Array, keeps: Callable[[Array], Array]) -> Array:
    """x where it is at least the smallest v for which keeps(x > v) holds, else -inf; keeps is monotone in v.

    v is found by halving the 2³² floats in their order: 32 passes over [B, V] and no sort.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    order = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = keeps(order > middle[:, None])
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    rows = jnp.zeros_like(order[:, 0])
    least, _ = jax.lax.fori_loop(0, 32, halve, (rows, ~rows))
    return jnp.where(order < least[:, None], -jnp.inf, x)
