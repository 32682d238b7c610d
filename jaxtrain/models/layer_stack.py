"""All layers of a decoder, scanned or unrolled: the KV cache that they write, and what the backward pass recomputes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.models import attention, moe, quantized_weights
from jaxtrain.models.attention import AttentionExecution
from jaxtrain.models.layers import Block
from jaxtrain.models.zoo import Arch
from jaxtrain.ops.quantized_matmul import AUTO
from jaxtrain.types import Params

Tables = tuple[Any, Any]  # rotary tables of layers without and with a window


def stack(
    arch: Arch,
    how: AttentionExecution,
    layers: Params,
    x: Array,
    tables: Tables,
    mixer: Callable[[int], Callable[..., Array]],
    keys: Callable[[Any], tuple[Any, Any]],
    valid: Array | None = None,
    cache: Any = None,
    write: Callable[..., Any] = lambda *_: None,
) -> tuple[Array, Any, Any]:
    """All layers, scanned or unrolled: (x, the cache, their routers' sums over tokens of valid bool[B, T]).

    `write(k, v, cache, layer)` gives the cache with a layer's keys and values, and `mixer(window)` is
    attend(q, k, v, cache, layer) -> mixed. In a scan the cache is of all layers and carried, as parts of it would be
    copied, and `layer` says which; unrolled it is one layer's and `layer` None.
    """
    block, windows = Block(arch, how, moe.feed_forward(arch, how)), arch.windows()

    def one(x: Array, p: Params, cache: Any, index: Any, windowed: Any) -> tuple[Array, Any]:
        layer = index if how.scan_layers else None
        if isinstance(windowed, int):
            rotary, mix = tables[bool(windowed)], mixer(windowed)
        else:
            rotary = jax.tree.map(lambda a, b: jnp.where(windowed, b, a), *tables)
            mix = functools.partial(jax.lax.cond, windowed, mixer(arch.window), mixer(0))

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
            written = write(k, v, cache, layer)
            return mix(q, k, v, written, layer), written

        return block.apply({"params": p}, x, rotary, attend, keys(index), valid)

    if how.scan_layers:
        mixed = len(set(windows)) > 1
        flags = jnp.asarray([bool(w) for w in windows]) if mixed else None

        def scanned(carry: tuple, s: tuple) -> tuple[tuple, Any]:
            p, index, windowed = s
            x, (cache, sums) = one(carry[0], p, carry[1], index, windowed if mixed else windows[0])
            return (x, cache), sums

        steps = (layers, jnp.arange(arch.layers), flags)
        (x, cache), sums = jax.lax.scan(_remat(how, scanned, True), (x, cache), steps)
        return x, cache, sums
    parts, back = layers if isinstance(layers, tuple) else unstack(layers, arch.layers), []
    for i, window in enumerate(windows):
        step = _remat(how, functools.partial(one, index=i, windowed=window), False)
        x, new = step(x, parts[i], cache[i] if cache is not None else None)
        back.append(new)
    caches, sums = zip(*back, strict=True)
    return x, caches, sums


def unstack(layers: Params, count: int) -> list[Params]:
    """[L, ...] as L trees. Through `split`, whose gradient is one concatenation; indexing would add L padded arrays."""
    leaves, treedef = jax.tree.flatten(layers)
    if count == 1:
        return [treedef.unflatten([leaf[0] for leaf in leaves])]
    pieces = [[p[0] for p in jax.lax.split(leaf, [1] * count)] for leaf in leaves]
    return [treedef.unflatten(layer) for layer in zip(*pieces, strict=True)]


def _remat(how: AttentionExecution, f: Callable, scanned: bool) -> Callable:
    if how.remat == "none":
        return f
    save = jax.checkpoint_policies  # what of attention's kernels is saved has a name: no kernel runs twice
    dots = save.save_only_these_names(*attention.SAVED, moe.PRODUCT, quantized_weights.PRODUCT)
    if how.matmul_dtype == AUTO:  # a product of codes is i32 or has no scales yet: what it becomes has a name
        dots = save.save_from_both_policies(save.dots_with_no_batch_dims_saveable, dots)
    return jax.checkpoint(f, policy=dots if how.remat == "dots" else None, prevent_cse=not scanned)
