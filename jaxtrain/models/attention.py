"""Attention kernels with one meaning: softmax(softcap(q kᵀ) + mask) v, and the choice between them.

Shapes: q f[B, T, H, C], already scaled; k, v f[B, S, K, C]; segments i32[B, T], equal where two positions may see
each other. A window of W lets a position see the W keys that end with itself; 0 is no window.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax import Array

from jaxtrain.config import ConfigError
from jaxtrain.models.zoo import Arch
from jaxtrain.ops.mixed_precision import matmul

MASKED = -1e30  # finite, so that a row with nothing to see stays finite
BLOCK = 64  # queries in a block; PERF: 64 to 128 are the fastest on a CPU


@dataclasses.dataclass(frozen=True)
class AttentionExecution:
    """How a model is computed. All but `noise` changes no result beyond rounding, and noise acts in training alone."""

    dtype: Any
    attention: str
    scan_layers: bool
    remat: str
    logits_limit: int  # f32 logits held at once, over all devices
    platform: str  # of the devices: cpu, gpu or tpu
    local: Callable[[Callable], Callable] | None = (
        None  # runs f(q, k, v, segments) a shard at a time, see Plan
    )
    noise: float = 0.0  # α of NEFTune's noise on the embeddings, models/transformer.py


Attend = Callable[[Array, Array, Array, Array | None], Array]  # (q, k, v, segments) -> f[B, T, H, C]


def _softmax_mix(q: Array, k: Array, v: Array, mask: Array, softcap: float) -> Array:
    """q f[B, K, Q, C] on k, v f[B, K, S, C] under mask bool[B or 1, 1, Q, S]; the softmax in f32."""
    scores = matmul(q, k.swapaxes(-1, -2))
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    return jax.nn.softmax(jnp.where(mask, scores, MASKED), -1).astype(v.dtype) @ v


def _grouped(q: Array, kv_heads: int) -> Array:
    """f[B, T, H, C] as f[B, K, T * H/K, C]: the query heads that share a key head stand in one product."""
    B, T, H, C = q.shape
    return q.reshape(B, T, kv_heads, H // kv_heads, C).transpose(0, 2, 1, 3, 4).reshape(B, kv_heads, -1, C)


def _ungrouped(x: Array, heads: int) -> Array:
    B, K, _, C = x.shape
    return x.reshape(B, K, -1, heads // K, C).transpose(0, 2, 1, 3, 4).reshape(B, -1, heads, C)


def blocked(
    q: Array, k: Array, v: Array, segments: Array | None, *, causal: bool, window: int, softcap: float
) -> Array:
    """Blocks of queries, each on no more keys than its last query sees: half the work of a causal square."""
    T, H, K = q.shape[1], q.shape[2], k.shape[2]
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    place = jnp.arange(T)
    out = []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        low, high = (max(0, start - window + 1) if window else 0, stop) if causal else (0, T)
        mask = _visible(place[start:stop], place[low:high], causal, window)[None]
        if segments is not None:
            mask = mask & (segments[:, start:stop, None] == segments[:, None, low:high])
        mask = jnp.repeat(mask, H // K, axis=1)[:, None]
        out.append(
            _softmax_mix(_grouped(q[:, start:stop], K), k[:, :, low:high], v[:, :, low:high], mask, softcap)
        )
    return jnp.concatenate([_ungrouped(x, H) for x in out], axis=1)


def _visible(query: Array, key: Array, causal: bool, window: int) -> Array:
    distance = query[:, None] - key[None, :]
    seen = distance >= 0 if causal else jnp.ones_like(distance, bool)
    return seen & (distance < window) & (distance > -window) if window else seen


def xla(
    q: Array, k: Array, v: Array, segments: Array | None, *, causal: bool, window: int, softcap: float
) -> Array:
    """The whole square at once; what XLA makes of it."""
    T, H, K = q.shape[1], q.shape[2], k.shape[2]
    mask = _visible(jnp.arange(T), jnp.arange(T), causal, window)[None]
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    return _ungrouped(
        _softmax_mix(_grouped(q, K), k, v, jnp.repeat(mask, H // K, axis=1)[:, None], softcap), H
    )


def cudnn(
    q: Array, k: Array, v: Array, segments: Array | None, *, causal: bool, window: int, softcap: float
) -> Array:
    """cuDNN's fused attention through jax.nn; packed rows become a boolean mask."""
    if softcap:
        raise ConfigError("--attention=cudnn: cuDNN has no soft cap; use --attention=auto")
    mask = None if segments is None else (segments[:, :, None] == segments[:, None, :])[:, None]
    span = None if not window else (window - 1, 0 if causal else window - 1)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=1.0, is_causal=causal, local_window_size=span, implementation="cudnn"
    )


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
) -> Array:
    """The TPU's splash kernel: blocks that the mask hides entirely are never touched. Interpreted on a CPU."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, H = q.shape[1], q.shape[2]
    if window:
        mask = masks.LocalMask((T, T), (window - 1, 0 if causal else window - 1), 0)
    else:
        mask = masks.CausalMask((T, T)) if causal else masks.FullMask((T, T))
    block = min(512, T)
    sizes = kernel.BlockSizes(
        **dict.fromkeys(
            ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute",
             "block_q_dq", "block_kv_dq"), block)
    )  # fmt: skip
    make = kernel.make_splash_mha if k.shape[2] == H else kernel.make_splash_mqa
    heads = H if k.shape[2] == H else H // k.shape[2]
    run = make(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        attn_logits_soft_cap=softcap or None,
        interpret=interpret,
    )
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    ids = None if segments is None else kernel.SegmentIds(segments, segments)
    if k.shape[1] == H:
        out = jax.vmap(run)(q, k, v, ids)
    else:
        B, _, _, C = q.shape
        groups = q.reshape(B, k.shape[1], -1, T, C)
        out = jax.vmap(jax.vmap(run, in_axes=(0, 0, 0, None)))(groups, k, v, ids).reshape(B, H, T, C)
    return out.transpose(0, 2, 1, 3)


KERNELS: dict[str, Callable[..., Array]] = {"blocked": blocked, "xla": xla, "cudnn": cudnn, "splash": splash}


def choose(name: str, arch: Arch, dtype: Any, length: int, platform: str) -> tuple[str, str]:
    """The kernel that `--attention` means here, and why it is not the platform's best where it is not."""
    if name != "auto":
        return name, ""
    if platform == "tpu":
        if length % 128 or arch.C % 64:
            return "xla", f"splash needs T % 128 = 0 and C % 64 = 0, not T={length}, C={arch.C}"
        return "splash", ""
    if platform in ("gpu", "cuda"):
        if arch.attn_softcap:
            return "xla", "cudnn has no soft cap"
        if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
            return "xla", f"cudnn needs bfloat16, not {jnp.dtype(dtype).name}"
        if arch.C % 8 or arch.C > 256:
            return "xla", f"cudnn needs C % 8 = 0 and C <= 256, not C={arch.C}"
        return "cudnn", ""
    return "blocked", ""


@functools.cache
def _say_once(text: str) -> None:
    logging.warning(text)


def kernel_for(how: AttentionExecution, arch: Arch, window: int, length: int) -> Attend:
    """The kernel as a function of (q, k, v, segments). A fallback from the platform's best is said once."""
    chosen, reason = choose(how.attention, arch, how.dtype, length, how.platform)
    if reason:
        _say_once(f"attention: {reason}; falling back to {chosen}")
    own = {"interpret": how.platform == "cpu"} if chosen == "splash" else {}
    kernel = functools.partial(
        KERNELS[chosen], causal=arch.causal, window=window, softcap=arch.attn_softcap, **own
    )
    # XLA cannot partition a Pallas kernel by itself.
    return how.local(kernel) if chosen == "splash" and how.local else kernel


def cached(q: Array, keys: Array, values: Array, positions: Array, *, window: int, softcap: float) -> Array:
    """Attention of q f[B, T, H, C] at positions i32[B, T] on a cache f[B, K, S, C] whose slot is the position.

    A slot beyond the query's position is never seen, so what an earlier, longer row left there does not matter.
    """
    H, K, S = q.shape[2], keys.shape[1], keys.shape[2]
    distance = positions[:, :, None] - jnp.arange(S)
    mask = (distance >= 0) & (distance < window) if window else distance >= 0
    mask = jnp.repeat(mask, H // K, axis=1)[:, None]
    return _ungrouped(_softmax_mix(_grouped(q, K), keys, values, mask, softcap), H)


def write(cache: Array, new: Array, positions: Array) -> Array:
    """Puts f[B, T, K, C] into the slots i32[B, T] of a cache f[B, K, S, C]; slots beyond S are dropped."""
    rows = jnp.arange(cache.shape[0])[:, None]
    return cache.at[rows, :, positions].set(new.astype(cache.dtype), mode="drop")
