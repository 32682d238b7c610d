"""Attention in blocks of queries and keys, in memory linear in T, for what no fused kernel takes: soft caps, float32.

FlashAttention-2 (arXiv:2307.08691, algorithms 1 and 2) in plain JAX: a scan over the pairs of blocks that the mask does
not hide entirely. The forward pass saves the output and the log-sum-exp of each query; the backward pass computes the
scores again from them. No array is as large as T x T, and a window costs only the keys inside it.

Shapes as in models/attention.py. In blocks, of which there are n: queries f[n, B, K, G * b, C] with G = H / K, keys and
values f[n, B, K, b, C], log-sum-exp f[n, B, K, G * b].
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jaxtrain.models import sinks

BLOCK = (
    512  # queries, and keys, of a pair: large enough that a GPU's launches do not count, see the scores' size
)
MASKED = -1e30  # finite, so that a row with nothing to see stays finite
# What a kernel's backward pass needs of its forward pass; a remat policy may save them by these names.
CONTEXT, LOG_SUM_EXP = "attention_context", "attention_lse"


class Masking(NamedTuple):
    """What hides a key from a query, and the soft cap of scores; 0 is none."""

    causal: bool
    window: int
    softcap: float


def visible(query: Array, key: Array, causal: bool, window: int) -> Array:
    """bool[Q, S]: whether a query at time i32[Q] may see a key at time i32[S] of its own document."""
    distance = query[:, None] - key[None, :]
    seen = distance >= 0 if causal else jnp.ones_like(distance, bool)
    return seen & (distance < window) & (distance > -window) if window else seen


def flash(
    q: Array, k: Array, v: Array, segments: Array | None, *, causal: bool, window: int, softcap: float
) -> Array:
    """f[B, T, H, C], softmax(softcap(q kᵀ) + mask) v."""
    q, sink = sinks.split(q, k)
    return _flash(q, k, v, segments, sink, Masking(causal, window, softcap))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _flash(
    q: Array, k: Array, v: Array, segments: Array | None, sink: Array | None, masking: Masking
) -> Array:
    return _flash_forward(q, k, v, segments, sink, masking)[0]


def _flash_forward(
    q: Array, k: Array, v: Array, segments: Array | None, sink: Array | None, masking: Masking
) -> tuple[Array, tuple]:
    out, lse = sinks.added(*forward(q, k, v, segments, masking), sink)
    out, lse = checkpoint_name(out, CONTEXT), checkpoint_name(lse, LOG_SUM_EXP)
    return out, (q, k, v, segments, sink, out, lse)


def _flash_backward(masking: Masking, saved: tuple, gradient: Array) -> tuple[Array | None, ...]:
    q, k, v, segments, sink, out, lse = saved
    own = backward(q, k, v, segments, out, lse, gradient, masking)
    return *own, None, sinks.gradient(out, lse, sink, gradient)


_flash.defvjp(_flash_forward, _flash_backward)


def forward(q: Array, k: Array, v: Array, segments: Array | None, masking: Masking) -> tuple[Array, Array]:
    """(the output f[B, T, H, C], the log-sum-exp of each query's scores f32[B, H, T])."""
    blocks = _Blocks(q.shape, k.shape[2])
    keys, values = blocks.keys(k), blocks.keys(v)
    queries, ids, pairs = _beside(blocks.queries(q), blocks.segments(segments), blocks.pairs(masking))
    wide = jnp.promote_types(q.dtype, jnp.float32)

    def step(carry: tuple, pair: tuple[Array, Array, Array]) -> tuple[tuple, None]:
        top, total, mixed, out, lse = carry
        i, j, first = pair
        top, total = jnp.where(first, MASKED, top), jnp.where(first, 0.0, total)
        mixed = jnp.where(first, 0.0, mixed)
        scores, _ = _scores(queries[i], keys[j], blocks.mask(ids, i, j, masking), masking.softcap)
        highest = jnp.maximum(top, scores.max(-1))
        weights, kept = jnp.exp(scores - highest[..., None]), jnp.exp(top - highest)
        total = total * kept + weights.sum(-1)
        mixed = mixed * kept[..., None] + jnp.matmul(
            weights.astype(v.dtype), values[j], preferred_element_type=wide
        )
        out = _put(out, i, (mixed / total[..., None]).astype(q.dtype))
        return (highest, total, mixed, out, _put(lse, i, highest + jnp.log(total))), None

    empty = jnp.zeros(queries.shape[1:-1], wide)
    carry = (empty, empty, jnp.zeros(queries.shape[1:], wide), jnp.zeros_like(queries))
    carry = (*carry, jnp.zeros(queries.shape[:-1], wide))
    (_, _, _, out, lse), _ = jax.lax.scan(step, carry, pairs)
    return blocks.of_queries(out), blocks.of_queries(lse[..., None])[..., 0].swapaxes(1, 2)


def backward(
    q: Array,
    k: Array,
    v: Array,
    segments: Array | None,
    out: Array,
    lse: Array,
    gradient: Array,
    masking: Masking,
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v from that of the output."""
    blocks = _Blocks(q.shape, k.shape[2])
    queries, keys, values = blocks.queries(q), blocks.keys(k), blocks.keys(v)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    dot = functools.partial(jnp.matmul, preferred_element_type=wide)
    delta = (gradient.astype(wide) * out.astype(wide)).sum(-1, keepdims=True)
    delta, gradients = blocks.queries(delta)[..., 0], blocks.queries(gradient.astype(q.dtype))
    gradients, ids, pairs = _beside(gradients, blocks.segments(segments), blocks.pairs(masking))
    lse = blocks.queries(lse.swapaxes(1, 2)[..., None])[..., 0]

    def step(carry: tuple[Array, Array, Array], pair: tuple[Array, Array, Array]) -> tuple[tuple, None]:
        dq, dk, dv = carry
        i, j, _ = pair
        scores, slope = _scores(queries[i], keys[j], blocks.mask(ids, i, j, masking), masking.softcap)
        weights = jnp.exp(scores - lse[i][..., None])
        dweights = dot(gradients[i], values[j].swapaxes(-1, -2))
        dscores = (weights * (dweights - delta[i][..., None]) * slope).astype(q.dtype)
        weights = weights.astype(q.dtype).swapaxes(-1, -2)
        dv = _put(dv, j, dv[j] + dot(weights, gradients[i]))
        dk = _put(dk, j, dk[j] + dot(dscores.swapaxes(-1, -2), queries[i]))
        return (_put(dq, i, dq[i] + dot(dscores, keys[j])), dk, dv), None

    zeros = [jnp.zeros(x.shape, wide) for x in (queries, keys, values)]
    (dq, dk, dv), _ = jax.lax.scan(step, tuple(zeros), pairs)
    return blocks.of_queries(dq).astype(q.dtype), *(blocks.of_keys(x).astype(k.dtype) for x in (dk, dv))


def _beside(x: Array, ids: Array | None, pairs: tuple) -> tuple[Array, Array | None, tuple]:
    """The same three. What masks are made of seems to depend on x.

    What is the same in all layers is computed once, apart from their loop: the masks of all pairs of blocks, held at
    once, which are as large as the square.
    """
    return jax.lax.optimization_barrier((x, ids, tuple(map(jnp.asarray, pairs))))


def _scores(q: Array, k: Array, mask: Array, softcap: float) -> tuple[Array, Array | float]:
    """(scores f32[B, K, G * b, b] after soft cap and mask, the slope of the soft cap)."""
    scores = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.promote_types(q.dtype, jnp.float32))
    slope = 1.0
    if softcap:
        squashed = jnp.tanh(scores / softcap)
        scores, slope = softcap * squashed, 1.0 - squashed**2
    return jnp.where(mask, scores, MASKED), slope


def _put(x: Array, i: Array, block: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x, block, i, 0)


class _Blocks:
    """How arrays of T positions are cut into n blocks of b, the last filled up with positions that nobody sees."""

    def __init__(self, shape: tuple[int, ...], kv_heads: int):
        self.B, self.T, self.H, _ = shape
        self.K = kv_heads
        self.n = -(-self.T // BLOCK)
        self.b = -(-self.T // self.n)

    def _cut(self, x: Array, fill: int = 0) -> Array:
        x = jnp.pad(
            x, [(0, 0), (0, self.n * self.b - self.T)] + [(0, 0)] * (x.ndim - 2), constant_values=fill
        )
        return x.reshape(self.B, self.n, self.b, *x.shape[2:])

    def queries(self, x: Array) -> Array:
        """f[B, T, H, C] as f[n, B, K, G * b, C]."""
        x = self._cut(x).reshape(self.B, self.n, self.b, self.K, self.H // self.K, -1)
        return x.transpose(1, 0, 3, 4, 2, 5).reshape(self.n, self.B, self.K, -1, x.shape[-1])

    def of_queries(self, x: Array) -> Array:
        """f[n, B, K, G * b, C] as f[B, T, H, C]."""
        x = x.reshape(self.n, self.B, self.K, self.H // self.K, self.b, -1).transpose(1, 0, 4, 2, 3, 5)
        return x.reshape(self.B, -1, self.H, x.shape[-1])[:, : self.T]

    def keys(self, x: Array) -> Array:
        """f[B, T, K, C] as f[n, B, K, b, C]."""
        return self._cut(x).transpose(1, 0, 3, 2, 4)

    def of_keys(self, x: Array) -> Array:
        """f[n, B, K, b, C] as f[B, T, K, C]."""
        return x.transpose(1, 0, 3, 2, 4).reshape(self.B, -1, self.K, x.shape[-1])[:, : self.T]

    def segments(self, segments: Array | None) -> Array | None:
        """i32[n, B, b], or None where all that the other masks show is visible."""
        if segments is None and self.n * self.b == self.T:
            return None
        whole = jnp.zeros((self.B, self.T), jnp.int32) if segments is None else segments
        return self._cut(whole, fill=-1).swapaxes(0, 1)

    def mask(self, ids: Array | None, i: Array, j: Array, masking: Masking) -> Array:
        """bool[B or 1, 1, G * b, b]: what the queries of block i see of the keys of block j."""
        place = jnp.arange(self.b)
        seen = visible(i * self.b + place, j * self.b + place, masking.causal, masking.window)[None]
        if ids is not None:
            seen = seen & (ids[i][:, :, None] == ids[j][:, None, :])
        return jnp.tile(seen, (1, self.H // self.K, 1))[:, None]

    def pairs(self, masking: Masking) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query block i32[P], key block i32[P], whether it is the query block's first bool[P]), by query block."""
        reach = masking.window - 1 if masking.window else self.T
        pairs = []
        for i in range(self.n):
            start, stop = i * self.b, (i + 1) * self.b - 1
            low = max(0, start - reach) // self.b
            high = i if masking.causal else min(self.n - 1, (stop + reach) // self.b)
            pairs += [(i, j, j == low) for j in range(low, high + 1)]
        i, j, first = zip(*pairs, strict=True)
        return np.array(i, np.int32), np.array(j, np.int32), np.array(first)
