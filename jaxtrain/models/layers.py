"""The parts of a decoder as Linen modules.

A module declares its parameters' shapes and logical axes, which train/parallel.py maps to a mesh; their first values
are models/transformer.py's.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.models import quantized_weights, rope, sinks
from jaxtrain.models.activations import activated
from jaxtrain.models.attention import AttentionExecution
from jaxtrain.models.residual_stream import from_residual, residual, to_residual
from jaxtrain.models.zoo import Arch


def declared(axes: tuple[str | None, ...]) -> Callable[..., Any]:
    """The initializer of a parameter with these logical axes; transformer.py draws the values."""
    return nn.with_logical_partitioning(nn.initializers.zeros, axes)


class Dense(nn.Module):
    """x[..., *inputs] @ kernel[*inputs, *outputs] (+ bias), worked as one two-dimensional product.

    XLA:CPU runs the backward pass of a product over [B, T, D] far slower than of one over [B * T, D].

    The product is in `how.dtype`, or of 8 bits with `how.matmul_dtype` (ops/quantized_matmul.py).
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str | None, ...]
    bias: bool
    how: AttentionExecution

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = quantized_weights.kernel_of(self, declared(self.axes), self.inputs + self.outputs)
        batch = x.shape[: x.ndim - len(self.inputs)]
        flat = x.reshape(math.prod(batch), math.prod(self.inputs))
        y = quantized_weights.product(flat, kernel, math.prod(self.outputs), self.how, self.axes, batch)
        if self.bias:
            axes = self.axes[len(self.inputs) :]
            bias = self.param("bias", declared(axes), self.outputs)
            y = y + bias.astype(self.how.dtype).reshape(-1)
        return y.reshape(*batch, *self.outputs)


class Norm(nn.Module):
    """RMSNorm (arXiv:1910.07467, eq. 4) or LayerNorm (arXiv:1607.06450) over the last axes, computed in f32."""

    kind: str
    eps: float
    offset: float
    dtype: Any
    axes: tuple[str, ...] = ("embed",)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        over = tuple(range(-len(self.axes), 0))
        shape = tuple(x.shape[i] for i in over)
        scale = self.param("scale", declared(self.axes), shape) + self.offset
        x = x.astype(jnp.float32)
        if self.kind == "layer":
            x = x - x.mean(over, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(over, keepdims=True) + self.eps) * scale
        if self.kind == "layer":
            x = x + self.param("bias", declared(self.axes), shape)
        return x.astype(self.dtype)


def rope_table(arch: Arch, positions: Array, theta: float, scaled: bool, context: int) -> tuple[Array, Array]:
    """cos and sin, f32[B, T, R/2], of rotary positions i32[B, T]; the frequencies are models/rope.py's."""
    freq, factor = rope.frequencies(arch, theta, scaled, context)
    angle = positions[..., None].astype(jnp.float32) * freq
    return factor * jnp.cos(angle), factor * jnp.sin(angle)


def rotate(x: Array, table: tuple[Array, Array]) -> Array:
    """Rotary positions on f[B, T, H, C]; component i is paired with i + R/2, as in the released Llama weights."""
    cos, sin = (part[:, :, None, :].astype(x.dtype) for part in table)
    half = cos.shape[-1]
    a, b, rest = jnp.split(x, (half, 2 * half), -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)


def drop(x: Array, rate: float, keys: Array | None) -> Array:
    """Dropout on f[B, ...], one key a row, so that a row's mask depends on nothing but the row. keys None: identity."""
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0.0)


class Attention(nn.Module):
    """Grouped-query attention (arXiv:2305.13245). `attend` is what mixes the values, see models/attention.py."""

    arch: Arch
    how: AttentionExecution

    @nn.compact
    def __call__(self, x: Array, table: tuple[Array, Array] | None, attend: Callable[..., Any]) -> Any:
        """x f[B, T, D]; attend(q f[B, T, H, C], k f[B, T, K, C], v) -> (f[B, T, H, C], what the caller wants back)."""
        arch, how = self.arch, self.how
        own = ((arch.K, arch.C), "kv")
        heads = {"q": ((arch.heads, arch.C), "heads"), "k": own, "v": own}
        q, k, v = (
            Dense((arch.width,), shape, ("embed", axis, "head"), arch.qkv_bias, how, name=name)(x)
            for name, (shape, axis) in heads.items()
        )
        if arch.qk_norm:
            axes = slice(0 if arch.qk_norm_joint else 1, 2)

            def norm(name: str, over: tuple[str, str]) -> Norm:
                return Norm("rms", arch.norm_eps, arch.norm_offset, how.dtype, over[axes], name=name)

            q, k = norm("q_norm", ("heads", "head"))(q), norm("k_norm", ("kv", "head"))(k)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        q = q * (arch.query_scale or arch.C) ** -0.5
        if arch.attn_sinks:
            q = sinks.attached(q, self.param("sinks", declared(("heads",)), (arch.heads,)))
        mixed, back = attend(q, k, v)
        out = Dense(
            (arch.heads, arch.C), (arch.width,), ("heads", "head", "embed"), arch.out_bias, how, name="out"
        )(mixed)
        return out, back


class FeedForward(nn.Module):
    """SwiGLU and GeGLU (arXiv:2002.05202), or a plain layer with GELU: models/activations.py."""

    arch: Arch
    how: AttentionExecution
    width: int = 0  # F; 0 is the Arch's

    @nn.compact
    def __call__(self, x: Array, valid: Array | None = None) -> tuple[Array, None]:
        del valid
        arch, how, F = self.arch, self.how, self.width or self.arch.ff

        def up(name: str) -> Array:
            return Dense((arch.width,), (F,), ("embed", "ff"), arch.mlp_bias, how, name=name)(x)

        down = Dense((F,), (arch.width,), ("ff", "embed"), arch.mlp_bias, how, name="down")
        return down(activated(arch.mlp, up)), None


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed_forward(norm(x)); post_norms norm each branch again.

    With `parallel` both branches read the same x (GPT-NeoX, arXiv:2204.06745, section 2.1).
    """

    arch: Arch
    how: AttentionExecution
    feed_forward: Callable[..., nn.Module]  # models/moe.py's

    @nn.compact
    def __call__(
        self,
        x: Array,
        rotary: tuple[Array, Array] | None,
        attend: Callable[..., Any],
        keys: tuple[Array, Array] | tuple[None, None],
        valid: Array | None = None,
    ) -> Any:
        """(x f[B, T, D], (what attend wants back, the router's sums over tokens of valid bool[B, T]))."""
        arch = self.arch

        def norm(there: bool, name: str, x: Array) -> Array:
            if not there:
                return x
            return Norm(arch.norm, arch.norm_eps, arch.norm_offset, self.how.dtype, name=name)(x)

        h = from_residual(norm(arch.pre_norms, "attention_norm", x))
        h, back = Attention(arch, self.how, name="attention")(h, rotary, attend)
        h = norm(arch.post_norms, "attention_post_norm", to_residual(h))
        mixed = residual(x + drop(h, arch.dropout, keys[0]))
        h = from_residual(norm(arch.pre_norms, "mlp_norm", x if arch.parallel else mixed))
        h, sums = self.feed_forward(name="mlp")(h, valid)
        h = norm(arch.post_norms, "mlp_post_norm", to_residual(h))
        return residual(mixed + drop(h, arch.dropout, keys[1])), (back, sums)
