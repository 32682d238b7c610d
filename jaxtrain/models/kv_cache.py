"""The KV cache of decode, in the type of computation or in int8.

In int8 it is codes i8[..., S, C] and a scale f32[..., S, 1] for each token's key, and value, of each head. A scale of
its own lets a token be written without a look at the others: nothing that is there is rounded again. A code's error is
half a scale at most, the largest component / 254. Scales have 4 / C of the codes' bytes.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxtrain.models.quantized_weights import INT8, in_int8
from jaxtrain.models.zoo import Arch


def empty(arch: Arch, how: Any, rows: int, slots: int) -> Any:
    """A cache without tokens: a pair (keys, values) a layer, one of all where layers are scanned.

    Each is f[B, K, S, C], or codes and scales; how: an AttentionExecution.
    """
    shape = (*[arch.layers][: how.scan_layers], rows, arch.K, slots, arch.C)

    def one() -> Any:
        if how.kv_cache != INT8:
            return jnp.zeros(shape, how.dtype)
        return {INT8: jnp.zeros(shape, jnp.int8), "scale": jnp.zeros((*shape[:-1], 1), jnp.float32)}

    return (one(), one()) if how.scan_layers else tuple((one(), one()) for _ in range(arch.layers))


def parts_to_write(cache: Any, new: Array) -> Any:
    """Keys or values f[..., C] as the leaves of a cache have them, to the nearest code."""
    return in_int8(new, (-1,)) if isinstance(cache, Mapping) else new.astype(cache.dtype)


def to_read(cache: Any, dtype: Any) -> tuple[Array, Array | None]:
    """(f[B, K, S, C] for products, f32[B, K, 1, S] by which a product is to be multiplied, or None).

    Codes are exact in bfloat16, so that a product with them loses nothing more; scales wait until after it.
    """
    if not isinstance(cache, Mapping):
        return cache, None
    return cache[INT8].astype(dtype), cache["scale"].swapaxes(-1, -2)
