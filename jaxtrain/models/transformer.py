"""The decoder as pure functions of one tree of parameters.

The layers' parameters are stacked, [L, ...], whether the layers are scanned or unrolled: checkpoints, plans and
imports see one layout, and scanning is a choice of the execution alone.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain import config
from jaxtrain.models import attention, context_attention, embedding_noise, kv_cache, layer_stack, moe
from jaxtrain.models import quantized_weights as quantized
from jaxtrain.models.attention import AttentionExecution
from jaxtrain.models.layer_stack import Tables
from jaxtrain.models.layers import Block, Norm, drop, rope_table
from jaxtrain.models.residual_stream import embedded, from_residual, residual
from jaxtrain.models.zoo import Arch
from jaxtrain.ops.placement import laid
from jaxtrain.types import LM, Axes, Batch, Head, Key, Params, Shards


def compute_dtype(settings: config.Model, platform: str) -> Any:
    """The type of computation; `auto` is float32 on a CPU, bfloat16 elsewhere."""
    auto = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(auto if settings.dtype == "auto" else settings.dtype)


def execution(
    settings: config.Model, platform: str, local: Shards | None = None, capability: str = ""
) -> AttentionExecution:
    """Resolves `auto` for devices of a platform."""
    scan = {"auto": platform != "cpu", "true": True, "false": False}[settings.scan_layers]
    # XLA copies a layer's weights out of those of all layers on a GPU, in a scan of decode at each token.
    unroll_decode = settings.scan_layers == "auto" and platform in ("gpu", "cuda")
    limit = settings.logits_limit_mb * 2**20 // 4
    dtype = compute_dtype(settings, platform)
    remat = ("none" if platform == "cpu" else "dots") if settings.remat == "auto" else settings.remat
    return AttentionExecution(
        dtype, settings.attention, scan, remat, limit, platform, local, capability=capability,
        unroll_decode=unroll_decode,
        kv_cache=settings.kv_cache,
        matmul_dtype=settings.matmul_dtype,
    )  # fmt: skip


def build(arch: Arch, how: AttentionExecution) -> LM:
    """The model. `arch.vocab` must be set by now."""
    if not arch.vocab:
        raise ValueError("arch.vocab is 0: set it from the tokenizer first")
    moe.require(arch, how)
    sampling = dataclasses.replace(how, scan_layers=how.scan_layers and not how.unroll_decode)
    axes = _axes(jax.eval_shape(functools.partial(_init, arch, how), jax.random.key(0)))
    return LM(
        init=lambda key: nn.meta.unbox(_init(arch, how, key)),
        axes=axes,
        hidden=functools.partial(_hidden, arch, how),
        head=functools.partial(_head, arch, how),
        cache=functools.partial(kv_cache.empty, arch, sampling),
        decode=functools.partial(_decode, arch, sampling),
        ready=functools.partial(_ready, arch, sampling, axes),
    )


def parameters(arch: Arch, active: bool = False) -> int:
    """Number of parameters; with `active`, of those that a token passes: k of the experts."""
    how = AttentionExecution(jnp.float32, "xla", True, "none", 1, "cpu")
    shapes = jax.eval_shape(functools.partial(_init, arch, how), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)) - active * arch.idle


def flops_per_token(arch: Arch, length: int) -> float:
    """Model FLOPs of training on a token: 6 for each parameter in a product, and attention on the keys it sees.

    PaLM, appendix B (arXiv:2204.02311), with the causal half and the windows taken off; nothing recomputed is counted.
    """
    heads = arch.width * arch.C * (2 * arch.heads + 2 * arch.K)
    mlp = arch.width * ((3 if arch.gated else 2) * arch.used_ff + arch.experts)
    seen = sum(_mean_keys(length, window, arch.causal) for window in arch.windows())
    return 6.0 * (arch.layers * (heads + mlp) + arch.width * arch.vocab) + 12.0 * arch.heads * arch.C * seen


def _mean_keys(length: int, window: int, causal: bool) -> float:
    reach = min(window or length, length)
    if not causal:
        return float(min(length, 2 * reach - 1))
    return (reach * (reach + 1) / 2 + (length - reach) * reach) / length


def _init(arch: Arch, how: AttentionExecution, key: Key) -> Params:
    """Parameters, boxed with their logical axes.

    Each layer's random numbers are one draw, in a loop over layers: XLA takes half a second to compile each generator.
    """
    k1, k2 = jax.random.split(key)
    block, x = Block(arch, how, moe.feed_forward(arch, how)), jnp.zeros((1, 1, arch.width))
    rotary = rope_table(arch, jnp.zeros((1, 1), jnp.int32), arch.rope_theta, False, 1)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
        return q[..., : arch.C], None

    def module() -> Params:
        return block.init(jax.random.key(0), x, rotary, attend, (None, None))["params"]

    boxes, treedef = jax.tree.flatten_with_path(jax.eval_shape(module), is_leaf=_is_box)
    sizes = [box.value.size if path[-1].key == "kernel" else 0 for path, box in boxes]

    def layer(key: Key) -> list[Array]:
        draws = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
        return [_initial(arch, path, box.value.shape, x) for (path, box), x in zip(boxes, draws, strict=True)]

    values = jax.lax.map(layer, jax.random.split(k2, arch.layers))
    stacked = [
        box.replace(value=value, names=("layers", *box.names))
        for (_, box), value in zip(boxes, values, strict=True)
    ]
    norm = jax.tree.map_with_path(
        lambda path, box: box.replace(value=_initial(arch, path, box.value.shape, None)),
        jax.eval_shape(lambda: {"norm": _final(arch, how).init(jax.random.key(0), x)["params"]}),
        is_leaf=_is_box,
    )
    return {**_embedding(arch, k1), "layers": treedef.unflatten(stacked), **norm}


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _initial(arch: Arch, path: Any, shape: tuple[int, ...], normal: Array | None) -> Array:
    """Kernels are normal, those that write to the residual stream narrower by √(2L); norms are identities."""
    *_, module, name = (entry.key for entry in path)
    if name == "kernel":
        narrow = (2 * arch.layers) ** -0.5 if module in ("out", "down") else 1.0
        return arch.init_std * narrow * normal.reshape(shape)
    return jnp.full(shape, 1.0 - arch.norm_offset if name == "scale" else 0.0, jnp.float32)


def _embedding(arch: Arch, key: Key) -> Params:
    """The tables of tokens, positions and, where it is not tied, of the unembedding: normal, from one draw."""
    tables = {"embed": (arch.vocab, "vocab")}
    if arch.positions == "learned":
        tables["positions"] = (arch.max_len, "positions")
    if not arch.tied:
        tables["unembed"] = (arch.vocab, "vocab")
    rows = [count for count, _ in tables.values()]
    drawn = arch.init_std * jax.random.normal(key, (sum(rows), arch.width))
    parts = jnp.split(drawn, np.cumsum(rows)[:-1])
    return {
        name: nn.LogicallyPartitioned(part, names=(axis, "embed"))
        for (name, (_, axis)), part in zip(tables.items(), parts, strict=True)
    }


def _final(arch: Arch, how: AttentionExecution) -> Norm:
    return Norm(arch.norm, arch.norm_eps, arch.norm_offset, how.dtype)


def _axes(boxed: Params) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    leaves = jax.tree.leaves_with_path(boxed, is_leaf=_is_box)
    return {tuple(entry.key for entry in path): box.names for path, box in leaves}


def _tables(arch: Arch, positions: Array, context: int) -> Tables:
    if arch.positions != "rope":
        return None, None
    everywhere = rope_table(arch, positions, arch.rope_theta, True, context)
    if not arch.rope_theta_local:
        return everywhere, everywhere
    return everywhere, rope_table(arch, positions, arch.rope_theta_local, False, context)


def _embed(
    arch: Arch,
    how: AttentionExecution,
    params: Params,
    tokens: Array,
    positions: Array,
    keys: Array | None,
    noise: Array | None = None,
) -> Array:
    x = embedded(params["embed"], "vocab", how.dtype, tokens)
    if noise is not None:
        x = x + noise.astype(how.dtype)
    if arch.embed_scale:
        x = x * jnp.asarray(arch.width**0.5, how.dtype)
    if arch.positions == "learned":
        x = x + embedded(params["positions"], "positions", how.dtype, positions)
    return residual(drop(x, arch.dropout, keys))


def _hidden(
    arch: Arch, how: AttentionExecution, params: Params, batch: Batch, rng: Key | None = None
) -> Array:
    """f[B, T, D] after the final norm. Dropout and noise act where `rng` is given, one key a row."""
    tokens, positions = batch["tokens"], batch["positions"]
    rows = None if rng is None or not (arch.dropout or how.noise) else batch["row"]

    def keys(site: Any) -> Array | None:
        if rows is None:
            return None
        here = jax.random.fold_in(rng, site)
        return jax.vmap(functools.partial(jax.random.fold_in, here))(rows)

    def mixer(window: int) -> Callable[..., Any]:
        kernel = context_attention.kernel_for(how, arch, window, tokens.shape[1])
        return lambda q, k, v, *_: kernel(q, k, v, batch["segments"])

    noise = (
        embedding_noise.neftune_noise(how.noise, batch["segments"], arch.width, keys(2 * arch.layers + 1))
        if how.noise
        else None
    )
    x = _embed(arch, how, params, tokens, positions, keys(0), noise)
    valid = batch["segments"] > 0 if arch.experts else None
    x, _, sums = layer_stack.stack(
        arch, how, params["layers"], x, _tables(arch, positions, tokens.shape[1]), mixer,
        lambda i: (keys(2 * i + 1), keys(2 * i + 2)), valid,
    )  # fmt: skip
    if valid is not None:
        moe.emit_losses(arch, sums, valid)
    return from_residual(_final(arch, how).apply({"params": params["norm"]}, x))


def _decode(
    arch: Arch,
    how: AttentionExecution,
    params: Params,
    tokens: Array,
    positions: Array | None,
    cache: Any,
    context: int = 0,
) -> tuple[Array, Any]:
    """Hidden states f[B, T, D] of tokens at positions i32[B, T], and the cache with their keys and values in it.

    The slot of a token is its position, so rows of different length need no padding on the left: a row's prompt is
    padded on the right, and what the padding wrote is overwritten before any query can see it. `context` is the number
    of slots that the cache will have, where it is to grow: rope.frequencies wants it from the first token on.

    positions None is prefill: 0 to T - 1 in each row, on an empty cache, with the kernel of training.
    """
    if not arch.causal:
        raise ValueError("a bidirectional model cannot be decoded token by token")

    T, places = tokens.shape[1], positions
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(T), tokens.shape)

    def write(k: Array, v: Array, cache: Any, layer: Any) -> Any:
        names = (*([] if layer is None else [None]), "batch", "kv", None, None)
        parts = tuple(
            attention.write(old, new, places, layer) for old, new in zip(cache, (k, v), strict=True)
        )
        return jax.tree.map(functools.partial(laid, names=names), parts)

    def mixer(window: int) -> Callable[..., Array]:
        def mix(q: Array, k: Array, v: Array, cache: Any, layer: Any) -> Array:
            if places is None:
                return context_attention.kernel_for(how, arch, window, T)(q, k, v, None)
            here = functools.partial(jax.lax.dynamic_index_in_dim, index=layer, keepdims=False)
            keys, values = cache if layer is None else jax.tree.map(here, cache)
            return attention.cached(q, keys, values, positions, window=window, softcap=arch.attn_softcap)

        return mix

    x = _embed(arch, how, params, tokens, positions, None)
    tables = _tables(arch, positions, context or jax.tree.leaves(cache)[0].shape[-2])
    x, cache, _ = layer_stack.stack(
        arch, how, params["layers"], x, tables, mixer, lambda i: (None, None), cache=cache, write=write
    )
    return _final(arch, how).apply({"params": params["norm"]}, x), cache


def _ready(arch: Arch, how: AttentionExecution, axes: Axes, params: Params) -> Params:
    """Parameters cast once, and where layers are unrolled a tree a layer: XLA would copy each layer every token."""

    def cast(path: Any, leaf: Array) -> Array:
        if any("norm" in str(entry.key) or entry.key == "router" for entry in path):
            # In f32, whole, on the mesh of all others: cuDNN takes one.
            return laid(leaf, (None,) * leaf.ndim)
        keys = tuple(entry.key for entry in path)
        if keys not in axes:
            return quantized.ready(keys[-1], leaf, axes[keys[:-1]], how.dtype)
        return quantized.ready_leaf(keys[-1], leaf, axes[keys], how)

    params = jax.tree.map_with_path(cast, params)
    if how.scan_layers:
        return params
    return {**params, "layers": tuple(layer_stack.unstack(params["layers"], arch.layers))}


def _head(arch: Arch, how: AttentionExecution, params: Params) -> Head:
    master = params["embed" if arch.tied else "unembed"]
    weight = laid(master.astype(how.dtype), ("vocab", "embed"))
    cast = None if weight.dtype == master.dtype else master
    mesh = how.local or Shards(None, 1)
    limit = how.logits_limit * (mesh.tensor if arch.vocab % mesh.tensor == 0 else 1)
    return Head(weight, arch.logit_softcap, limit, cast, (mesh.rows, mesh.context), how.platform != "cpu")
