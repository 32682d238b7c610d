"""Attention kernels with one meaning: softmax(softcap(q kᵀ) + mask) v, and the choice between them.

Shapes: q f[B, T, H, C], already scaled; k, v f[B, S, K, C]; segments i32[B, T], equal where two positions may see
each other. A window of W lets a position see the W keys that end with itself; 0 is no window. Queries of C + 1
components bring the sink of their head, see models/sinks.py.
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
from jaxtrain.models import cudnn_attention, kv_cache, sinks
from jaxtrain.models.cudnn_attention import cudnn
from jaxtrain.models.flash_attention import CONTEXT, LOG_SUM_EXP, MASKED, flash, visible
from jaxtrain.models.splash_attention import splash
from jaxtrain.models.zoo import Arch
from jaxtrain.ops.mixed_precision import matmul
from jaxtrain.types import Shards

BLOCK = 64  # queries in a block; PERF: 64 to 128 are the fastest on a CPU
SHORT = 128  # a row below it, as a prompt may be, costs little with any kernel
LONG = 2048  # PERF: from here on `blocked` compiles thrice as long as `flash` on a CPU, and is slower
SAVED = (CONTEXT, LOG_SUM_EXP)  # names of what a kernel's backward pass needs of its forward pass, for remat


@dataclasses.dataclass(frozen=True)
class AttentionExecution:
    """How a model is computed: all changes no result beyond rounding, but noise, in training, and 8 bits."""

    dtype: Any
    attention: str
    scan_layers: bool
    remat: str
    logits_limit: int  # f32 logits that a device may hold at once
    platform: str  # of the devices: cpu, gpu or tpu
    local: Shards | None = None  # of a mesh
    noise: float = 0.0  # α of NEFTune's noise on the embeddings, models/transformer.py
    capability: str = ""  # of GPUs: their compute capability, such as 9.0
    unroll_decode: bool = False  # prefill and decode do not scan over the layers
    kv_cache: str = "auto"  # type of the KV cache: that of computation, or int8
    matmul_dtype: str = "auto"  # of products with kernels: that of computation, or ops/quantized_matmul.py's


Attend = Callable[[Array, Array, Array, Array | None], Array]  # (q, k, v, segments) -> f[B, T, H, C]


def _softmax_mix(
    q: Array, k: Array, v: Array, mask: Array, softcap: float, scales: tuple[Any, Any] = (None, None)
) -> Array:
    """q f[B, K, Q, C] on k, v f[B, K, S, C] under mask bool[B or 1, 1, Q, S]; the softmax in f32."""
    q, sink = sinks.split(q, k)
    scores = matmul(q, k.swapaxes(-1, -2))
    if scales[0] is not None:
        scores = scores * scales[0]
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask, scores, MASKED)
    if sink is not None:
        scores = jnp.concatenate([scores, sink.astype(scores.dtype)], -1)
    weights = jax.nn.softmax(scores, -1)
    weights = weights if sink is None else weights[..., :-1]
    return (weights if scales[1] is None else weights * scales[1]).astype(v.dtype) @ v


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
        mask = visible(place[start:stop], place[low:high], causal, window)[None]
        if segments is not None:
            mask = mask & (segments[:, start:stop, None] == segments[:, None, low:high])
        mask = jnp.repeat(mask, H // K, axis=1)[:, None]
        out.append(
            _softmax_mix(_grouped(q[:, start:stop], K), k[:, :, low:high], v[:, :, low:high], mask, softcap)
        )
    return jnp.concatenate([_ungrouped(x, H) for x in out], axis=1)


def xla(
    q: Array, k: Array, v: Array, segments: Array | None, *, causal: bool, window: int, softcap: float
) -> Array:
    """The whole square at once; what XLA makes of it."""
    T = q.shape[1]
    mask = visible(jnp.arange(T), jnp.arange(T), causal, window)[None]
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    return masked(q, k, v, mask, softcap)


def masked(q: Array, k: Array, v: Array, mask: Array, softcap: float) -> Array:
    """f[B, T, H, C]: queries on keys and values f[B, S, K, C] under mask bool[B or 1, T, S]."""
    H, K = q.shape[2], k.shape[2]
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    mixed = _softmax_mix(_grouped(q, K), k, v, jnp.repeat(mask, H // K, axis=1)[:, None], softcap)
    return _ungrouped(mixed, H)


KERNELS: dict[str, Callable[..., Array]] = {
    "blocked": blocked,
    "xla": xla,
    "flash": flash,
    "cudnn": cudnn,
    "splash": splash,
}


def choose(
    name: str, arch: Arch, dtype: Any, length: int, platform: str, capability: str = "", window: int = 0
) -> tuple[str, str]:
    """The kernel that `--attention` means here, and why it is not the platform's best where it is not."""
    if name != "auto":
        return name, ""
    if platform == "tpu":
        if length % 128 or arch.C % 64:
            return "flash", f"splash needs T % 128 = 0 and C % 64 = 0, not T={length}, C={arch.C}"
        return "splash", ""
    if platform in ("gpu", "cuda"):
        lacking = cudnn_attention.lacks(arch, dtype, capability, window)
        return ("flash", lacking) if lacking else ("cudnn", "")
    return ("blocked" if length < LONG else "flash"), ""


@functools.cache
def _say_once(text: str) -> None:
    logging.warning(text)


def kernel_for(how: AttentionExecution, arch: Arch, window: int, length: int) -> Attend:
    """The kernel as a function of (q, k, v, segments). A fallback from the platform's best is said once."""
    chosen, reason = choose(how.attention, arch, how.dtype, length, how.platform, how.capability, window)
    if reason and length >= SHORT:
        _say_once(f"attention: {reason}; falling back to {chosen}")
    own: dict[str, Any] = {}
    if chosen == "splash":
        own = {"interpret": how.platform == "cpu"}
    elif chosen == "cudnn":
        if lacking := cudnn_attention.lacks(arch, how.dtype, how.capability, window):
            raise ConfigError(f"--attention=cudnn: {lacking}; use --attention=auto")
        own = {"packed": cudnn_attention.takes_documents(how.capability)}
    kernel = functools.partial(
        KERNELS[chosen], causal=arch.causal, window=window, softcap=arch.attn_softcap, **own
    )
    # XLA cannot partition by itself a Pallas kernel, or the offsets of documents in rows.
    return how.local.run(kernel) if chosen in ("splash", "cudnn", "flash") and how.local else kernel


def cached(q: Array, keys: Any, values: Any, positions: Array, *, window: int, softcap: float) -> Array:
    """Attention of q f[B, T, H, C] at positions i32[B, T] on a cache f[B, K, S, C] whose slot is the position.

    A slot beyond the query's position is never seen, so what an earlier, longer row left there does not matter.
    """
    (keys, of_keys), (values, of_values) = (kv_cache.to_read(x, q.dtype) for x in (keys, values))
    H, K, S = q.shape[2], keys.shape[1], keys.shape[2]
    distance = positions[:, :, None] - jnp.arange(S)
    mask = (distance >= 0) & (distance < window) if window else distance >= 0
    mask = jnp.repeat(mask, H // K, axis=1)[:, None]
    mixed = _softmax_mix(_grouped(q, K), keys, values, mask, softcap, (of_keys, of_values))
    return _ungrouped(mixed, H)


def write(cache: Any, new: Array, positions: Array | None, layer: Array | None = None) -> Any:
    """Puts f[B, T, K, C] into slots i32[B, T] (None: 0 to T - 1) of a cache f[B, K, S, C]; dropped beyond S.

    With `layer`, i32[], into that layer of a cache f[L, B, K, S, C].
    """
    of_layer = () if layer is None else (layer,)

    def put(cache: Array, new: Array) -> Array:
        if positions is None:
            new = jnp.expand_dims(new.swapaxes(1, 2), range(len(of_layer)))
            return jax.lax.dynamic_update_slice(cache, new, (*of_layer, 0, 0, 0, 0))
        rows = jnp.arange(len(new))[:, None]
        return cache.at[(*of_layer, rows, slice(None), positions)].set(new, mode="drop")

    return jax.tree.map(put, cache, kv_cache.parts_to_write(cache, new))
