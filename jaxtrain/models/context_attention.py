"""Attention on rows whose time is split over devices, the mesh's context axis. Callers see time in order.

Two ways, both exact, for any mask. `by_heads`: heads are exchanged for time, so that each device has some heads of the
whole row and any kernel serves (arXiv:2309.14509, section 3.1). `by_keys`, for heads that do not divide: each device
gathers all keys and values (arXiv:2407.21783, section 3.3.2). Under a causal mask the last queries see most keys, so
device i of C works on parts i and 2C - 1 - i of the row's 2C parts; only queries and results move for that.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.models import attention
from jaxtrain.models.attention import Attend, AttentionExecution
from jaxtrain.models.zoo import Arch

AXIS = "context"
QUERIES = 64  # in a block of `in_blocks`


def kernel_for(how: AttentionExecution, arch: Arch, window: int, length: int) -> Attend:
    """attention.kernel_for, which works on a part of time a device where the mesh splits it.

    A row that does not split into two parts a device, as a short prompt, is computed whole on each of them.
    """
    shards = how.local
    if shards is None or shards.context == 1 or length % (2 * shards.context):
        return attention.kernel_for(how, arch, window, length)
    whole = attention.kernel_for(dataclasses.replace(how, local=None), arch, window, length)
    part = _kernel_on_part(how, arch, window, length)

    def attend(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
        H, K, C = q.shape[2], k.shape[2], jax.lax.axis_size(AXIS)
        if C == 1:  # in a plan to decode
            return whole(q, k, v, segments)
        if H % C == 0 and (K % C == 0 or C % K == 0):
            return by_heads(whole, q, k, v, segments)
        return by_keys(part, q, k, v, segments, balanced=arch.causal and not window)

    return shards.run(attend, split_time=True)


def _kernel_on_part(how: AttentionExecution, arch: Arch, window: int, length: int) -> Callable[..., Array]:
    """The kernel of queries at some of a row's times on all of its keys."""
    masking = {"causal": arch.causal, "window": window, "softcap": arch.attn_softcap}
    chosen, _ = attention.choose(
        how.attention, arch, how.dtype, length // (2 * how.local.context), how.platform
    )
    if chosen == "splash":
        return functools.partial(attention.splash, **masking, interpret=how.platform == "cpu")
    return functools.partial(in_blocks, **masking)


def by_heads(kernel: Attend, q: Array, k: Array, v: Array, segments: Array | None) -> Array:
    """f[B, T/C, H, C] of a device's part of time, from a kernel on whole rows and a part of the heads."""
    devices = jax.lax.axis_size(AXIS)
    repeats = max(devices // k.shape[2], 1)  # of a key head, for the query heads of several devices
    k, v = (jnp.repeat(x, repeats, axis=2) for x in (k, v))
    q, k, v = (jax.lax.all_to_all(x, AXIS, split_axis=2, concat_axis=1, tiled=True) for x in (q, k, v))
    out = kernel(q, k, v, _whole(segments))
    return jax.lax.all_to_all(out, AXIS, split_axis=1, concat_axis=2, tiled=True)


def _whole(x: Array | None) -> Array | None:
    """Time gathered from all parts."""
    return None if x is None else jax.lax.all_gather(x, AXIS, axis=1, tiled=True)


def by_keys(
    kernel: Callable[..., Array], q: Array, k: Array, v: Array, segments: Array | None, *, balanced: bool
) -> Array:
    """f[B, T/C, H, C] of a device's part of time, from all keys; `balanced` shares a causal mask out evenly."""
    devices, this = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    k, v, key_segments = map(_whole, (k, v, segments))
    if not balanced:
        places = np.arange(k.shape[1], dtype=np.int32).reshape(devices, -1)
        return kernel(q, k, v, segments, key_segments=key_segments, places=places, part=this)
    half, parts = q.shape[1] // 2, half_parts(devices)
    halves = np.array(parts).T  # [C, 2]
    places = (half * halves[..., None] + np.arange(half)).reshape(devices, -1).astype(np.int32)
    segments = None if segments is None else _exchanged(segments, parts)
    out = kernel(
        _exchanged(q, parts),
        k,
        v,
        segments,
        key_segments=key_segments,
        places=places,
        part=this,
    )
    return _exchanged(out, parts, back=True)


def half_parts(devices: int) -> tuple[list[int], list[int]]:
    """(the even, the odd of the parts of time that each device works on), of twice as many parts as devices.

    Device i has parts i and 2C - 1 - i, one of which is even.
    """
    pairs = [(i, 2 * devices - 1 - i) for i in range(devices)]
    return [min(pair, key=lambda n: n % 2) for pair in pairs], [
        max(pair, key=lambda n: n % 2) for pair in pairs
    ]


def _exchanged(x: Array, parts: tuple[list[int], list[int]], back: bool = False) -> Array:
    """[B, T/C, ...], the two parts that a device works on in place of the two that it holds, 2i and 2i + 1; or back."""
    moved = []
    for half, numbers in zip(jnp.split(x, 2, axis=1), parts, strict=True):
        pairs = [(number // 2, worker) for worker, number in enumerate(numbers)]
        moved.append(jax.lax.ppermute(half, AXIS, [pair[::-1] for pair in pairs] if back else pairs))
    return jnp.concatenate(moved, axis=1)


def in_blocks(
    q: Array,
    k: Array,
    v: Array,
    segments: Array | None,
    *,
    key_segments: Array | None,
    places: np.ndarray,
    part: Array,
    causal: bool,
    window: int,
    softcap: float,
) -> Array:
    """Blocks of queries f[B, Q, H, C], at times places[part] of places i32[C, Q], each on all keys f[B, S, K, C]."""
    size = math.gcd(q.shape[1], QUERIES)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

    def block(one: tuple[Array, Array, Array | None]) -> Array:
        q, at, own = one
        mask = attention.visible(at, jnp.arange(k.shape[1]), causal, window)[None]
        if own is not None:
            mask = mask & (own[:, :, None] == key_segments[:, None, :])
        return attention.masked(q, k, v, mask, softcap)

    at = jnp.asarray(places)[part].reshape(-1, size)
    blocks = (split(q), at, None if segments is None else split(segments))
    out = jax.lax.map(jax.checkpoint(block, prevent_cse=False), blocks)
    return jnp.moveaxis(out, 0, 1).reshape(*q.shape[:-1], -1)
