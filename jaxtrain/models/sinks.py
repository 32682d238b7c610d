"""Attention sinks: a learned logit of each head in the denominator of its softmax (gpt-oss, arXiv:2508.10925).

A head's sink travels as a last component of its queries, so that what cuts, groups or exchanges queries takes it along.
"""

import jax.numpy as jnp
from jax import Array


def attached(q: Array, sinks: Array) -> Array:
    """f[B, T, H, C + 1]: queries f[B, T, H, C] with the sinks f32[H] behind them."""
    return jnp.concatenate([q, jnp.broadcast_to(sinks.astype(q.dtype)[:, None], (*q.shape[:-1], 1))], -1)


def split(q: Array, k: Array) -> tuple[Array, Array | None]:
    """(queries f[..., C], sinks f[..., 1] or None), by the width of the keys f[..., C]."""
    C = k.shape[-1]
    return (q[..., :C], q[..., C:]) if q.shape[-1] > C else (q, None)


def added(out: Array, lse: Array, sinks: Array | None) -> tuple[Array, Array]:
    """Attention's output f[B, T, H, C] and log-sum-exp f32[B, H, T] with the sinks f[B, T, H, 1] in the softmax."""
    if sinks is None:
        return out, lse
    whole = jnp.logaddexp(lse, sinks[..., 0].swapaxes(1, 2).astype(lse.dtype))
    share = jnp.exp(lse - whole).swapaxes(1, 2)[..., None]
    return (out * share).astype(out.dtype), whole


def gradient(out: Array, lse: Array, sinks: Array | None, of_out: Array) -> Array | None:
    """The sinks' gradient from that of the output: minus a sink's share of the softmax times (output · gradient)."""
    if sinks is None:
        return None
    share = jnp.exp(sinks.astype(lse.dtype) - lse.swapaxes(1, 2)[..., None])
    dot = (out.astype(lse.dtype) * of_out.astype(lse.dtype)).sum(-1, keepdims=True)
    return (-share * dot).astype(sinks.dtype)
