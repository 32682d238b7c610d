"""The TPU's splash attention kernel, and the masks by which it leaves out blocks that are hidden entirely."""

import functools
import math
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxtrain.models import sinks
from jaxtrain.models.flash_attention import CONTEXT

BLOCK = 512  # queries, and keys, that the kernel works on at once


def splash(
    q: Array,
    k: Array,
    v: Array,
    segments: Array | None,
    *,
    causal: bool,
    window: int,
    softcap: float,
    interpret: bool,
    key_segments: Array | None = None,
    places: np.ndarray | None = None,
    part: Array | None = None,
) -> Array:
    """f[B, T, H, C], softmax(softcap(q kᵀ) + mask) v; shapes as in models/attention.py. Interpreted on a CPU.

    Queries of a part of time, of which there are P, stand at times places[part] of places i32[P, T]; the keys are then
    the whole row's, in segments `key_segments`.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    q, sink = sinks.split(q, k)
    B, T, H, C = q.shape
    S, K = k.shape[1], k.shape[2]
    parts = 1 if places is None or not (causal or window) else len(places)
    mask = _mask(parts * T, S, causal, window)
    if parts > 1:
        mask.q_sequence = places.ravel()
    of_queries = dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), math.gcd(BLOCK, T))
    of_keys = ("block_kv", "block_kv_compute", "block_kv_dkv", "block_kv_dkv_compute", "block_kv_dq")
    make = kernel.make_splash_mha if K == H else kernel.make_splash_mqa
    run = make(
        masks.MultiHeadMask([mask] * (H if K == H else H // K)),
        head_shards=1,
        q_seq_shards=parts,
        block_sizes=kernel.BlockSizes(**of_queries, **dict.fromkeys(of_keys, math.gcd(BLOCK, S))),
        attn_logits_soft_cap=softcap or None,
        residual_checkpoint_name=CONTEXT,
        interpret=interpret,
    )
    if parts > 1:
        run = jax.tree.map(lambda x: _of_part(x, part, parts), run)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    ids = None
    if segments is not None:
        ids = kernel.SegmentIds(segments, segments if key_segments is None else key_segments)
    sink = None if sink is None else sink[0, 0, :, 0]  # the same at all places
    if K == H:
        out = jax.vmap(run, in_axes=(0, 0, 0, 0, None))(q, k, v, ids, sink)
    else:
        q, sink = q.reshape(B, K, -1, T, C), None if sink is None else sink.reshape(K, -1)
        row = jax.vmap(run, in_axes=(0, 0, 0, None, 0))
        out = jax.vmap(row, in_axes=(0, 0, 0, 0, None))(q, k, v, ids, sink).reshape(B, H, T, C)
    return out.transpose(0, 2, 1, 3)


def _of_part(x: Array, part: Array, parts: int) -> Array:
    """Of what describes a mask, [times of queries] or [1, blocks of queries, blocks of keys], that of one part."""
    axis = x.ndim // 2
    size = x.shape[axis] // parts
    return jax.lax.dynamic_slice_in_dim(x, part * size, size, axis)


def _mask(queries: int, keys: int, causal: bool, window: int) -> Any:
    """The kernel's mask of queries at times 0, 1, ... on keys."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if not causal and not window:
        return masks.FullMask((queries, keys))
    return _band()((queries, keys), (window - 1 if window else None, 0 if causal else window - 1), 0)


@functools.cache
def _band() -> type:
    """A local mask that shows a block with one value as one element.

    The kernel's set-up asks of each block of a mask whether any and all of it is visible: half a minute of a CPU at
    T = 131,072, where each pair of query and key is computed.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    class Band(masks.LocalMask):
        def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
            left, right = self.window_size
            times, (first, stop, _) = self.q_sequence[block[0]], block[1].indices(self.shape[1])
            if times[-1] - times[0] == len(times) - 1:
                # Distances of key to query; all between them occur, too.
                low, high = times[0] - (stop - 1), times[-1] - first
                least, most = (-np.inf if right is None else -right), (np.inf if left is None else left)
                if high < least or low > most:
                    return np.zeros((1, 1), bool)
                if low >= least and high <= most:
                    return np.ones((1, 1), bool)
            return super().__getitem__(block)

    return Band
