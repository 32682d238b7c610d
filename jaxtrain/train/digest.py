"""Digests of the arrays in a tree of parameters or state, computed on the devices where the arrays are.

A digest does not depend on the sharding or on the number of processes: it is a sum over elements, each hashed with its
place in the global array. 32-bit integers alone, since jax has no others by default.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxtrain.files.checksums import json_sha256

WORD = 1 << 32  # elements that a word counts
VERSION = 2  # of new records; those without a version are of 1


def tree_digest(tree: Any) -> str:
    """16 hexadecimal digits that stand for names, shapes, types and bits of all leaves, however they are sharded."""
    return json_sha256(table(tree))[:16]


def table(tree: Any, prefix: str = "", version: int = VERSION) -> dict[str, list]:
    """path -> [shape, dtype, digest] of every leaf, the digest as a version of records has it."""
    named = named_leaves(tree, prefix)
    # One at a time: on a CPU with as many devices as cores, sums over shards that run at once wait for each other.
    return {path: [*shape_and_type(leaf), VERSIONS[version](leaf)] for path, leaf in named}


def named_leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, as in params/embed/table."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(prefix + jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def shape_and_type(leaf: Any) -> tuple[list[int], str]:
    """The shape and the name of the type, as JSON has them."""
    return list(leaf.shape), str(leaf.dtype)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Array) -> Array:
    """The leaf, of typed keys their data."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _array_digest(leaf: Array) -> str:
    return "".join(f"{int(lane):08x}" for lane in jax.device_get(_lanes(leaf)))


@jax.jit  # one program a shape, shared by all layers: one for all leaves compiles for seconds
def _lanes(leaf: Array) -> tuple[Array, Array]:
    """(u32[], u32[]), (Σᵢ xᵢ, Σᵢ yᵢ) mod 2³²: xᵢ is a hash of element i's bits and place, yᵢ one of xᵢ and the place.

    xᵢ = fmix32(bits ⊕ c·i), the finalizer of MurmurHash3, is a bijection of the bits, so that one changed element
    always shows; several ones that change escape with a probability of 2⁻⁶⁴, whatever the bits.
    """
    bits = _bits(leaf)
    low, high = _places(bits.shape)
    x = bits ^ (low * jnp.uint32(0x9E3779B1) + jnp.uint32(0x85EBCA77))
    if high is not None:
        x ^= _mix(high + jnp.uint32(0x165667B1))
        low += high * jnp.uint32(0xC2B2AE3D)
    x = _mix(x)
    y = (x ^ (low + jnp.uint32(0x27D4EB2F))) * jnp.uint32(0x2C1B3C6D)
    y ^= y >> 15
    # One reduction of both, which is one pass over the elements: two sums take ten times as long on a CPU.
    zero = jnp.uint32(0)
    return lax.reduce((x, y), (zero, zero), _add_both, tuple(range(x.ndim)))


def _add_both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    return a[0] + b[0], a[1] + b[1]


def _mix(x: Array) -> Array:
    """MurmurHash3's fmix32: every bit of the result depends on every bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _places(shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    """u32[shape] twice, together the element's place; None in place of the second one up to 2³² elements."""
    low, high, stride, high_stride = jnp.zeros(shape, jnp.uint32), None, 1, 1
    for axis in reversed(range(len(shape))):
        along = lax.broadcasted_iota(jnp.uint32, shape, axis)
        if stride * shape[axis] <= WORD:
            low += along * jnp.uint32(stride % WORD)
            stride *= shape[axis]
        else:
            more = along * jnp.uint32(high_stride % WORD)
            high = more if high is None else high + more
            high_stride *= shape[axis]
    return low, high


def _bits(leaf: Array) -> Array:
    """u32[shape], the bits of each element; of 8 bytes u32[shape, 2]."""
    x = plain(leaf)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    return lax.bitcast_convert_type(x, kind).astype(jnp.uint32)


def _odd_sum(leaf: Array) -> int:
    return int(_sum_of_odd_multiples(leaf))


@jax.jit
def _sum_of_odd_multiples(leaf: Array) -> Array:
    """u32[], Σᵢ (2i + 1) · bitsᵢ mod 2³²: version 1, which checkpoints of earlier releases have.

    It misses an even number of flips of the highest bit.
    """
    bits = _bits(leaf)
    index, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)


VERSIONS = {1: _odd_sum, 2: _array_digest}
