"""Products of activations and kernels in 8 bits, forward and backward, with scales of the values at hand.

Y = X W with X f[N, I] of N tokens, W f[I, O]. A row of X has a scale s_n, an output of W a scale σ_o, and codes are the
values divided by them, so that Y_no ≈ s_n σ_o Σ_i X̂_ni Ŵ_io. A scale of a token's own leaves each token independent of
all others: padding, other rows of a batch, and the plan of devices do not move it. In the backward pass σ goes into the
gradient G before that gets a scale t_n for each token, so that the codes of W serve twice (as with `use_fwd_quant` of
Google's AQT): ∂X_ni ≈ t_n Σ_o Ĝ_no Ŵ_io with Ĝ of G_no σ_o. Rounding has the gradient of the identity.

int8: products i8 x i8 into i32, exactly; scales are max / 127. ∂W = Xᵀ G is in the type of computation: its sum over
all tokens of a batch is what int8 is too coarse for (SwitchBack, arXiv:2304.13013, section 2).

fp8: X and W in E4M3, G in E5M2 (arXiv:2209.05433, section 3), summed in f32. Scales are powers of two: the codes of all
but the smallest values are then what they were with any other such scale, and nothing is rounded twice. ∂W is in 8 bits
too: s_n, which would stand inside of its sum over tokens, goes into G, which gets one scale for all tokens:
∂W_io ≈ t Σ_n X̂_ni Ĝ_no with Ĝ of G_no s_n. This scale alone is a batch's, or a device's part of it. Since it is a power
of two, what a split of the batch can move is what E5M2 has no normal number for: values below 2⁻³⁰ of the largest.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.ops.sharded_matmul import KernelLayout, gather, gradient, input_axes

AUTO, INT8, FP8 = "auto", "int8", "fp8"
CODES = {INT8: jnp.int8, FP8: jnp.float8_e4m3fn}  # of activations and kernels
OF_GRADIENTS = {INT8: jnp.int8, FP8: jnp.float8_e5m2}
MOST = 127.0  # the largest code of int8: -128 has no opposite
TINY = 2.0**-126  # the smallest scale above 0: of what is no normal number
WHOLE = KernelLayout()
_MANTISSA = 2**23 - 1  # bits of an f32
Held = tuple[Array, Array]  # codes and their scales


def rounded(x: Array, axes: tuple[int, ...], dtype: Any) -> tuple[Array, Array]:
    """(the nearest codes of x f[...] in int8 or an 8-bit float, a scale f32[...] for all that differs in `axes` alone).

    A scale is the largest magnitude / the largest code; of a float type, the next power of two from there on; of zeros
    alone, 0. What is not finite makes its scale not finite, and so whatever the scale multiplies.
    """
    x = x.astype(jnp.float32)
    largest = jnp.abs(x).max(axes, keepdims=True)
    if dtype == jnp.int8:
        scale = jnp.maximum(largest / MOST, TINY)
        codes = jnp.round(x / scale).astype(dtype)
    else:
        scale = _power_of_two(jnp.maximum(largest / float(jnp.finfo(dtype).max), TINY))
        codes = (x / scale).astype(dtype)
    return codes, jnp.where(largest == 0, 0.0, scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def matmul(x: Array, kernel: Array, kind: str, layout: KernelLayout = WHOLE) -> Array:
    """f[N, O] = x f[N, I] @ kernel f32[*I, *O], int8 or fp8, in x's type; and so are its gradients.

    Where the kernel lies in parts, devices exchange its codes.
    """
    return _matmul_forward(x, kernel, kind, layout)[0]


def _matmul_forward(x: Array, kernel: Array, kind: str, layout: KernelLayout) -> tuple[Array, Any]:
    held = rounded(kernel, tuple(range(input_axes(kernel, x.shape[1]))), CODES[kind])
    y, rows = _product(x, held, kind, layout)
    return y, (x if kind == INT8 else rows, held, jnp.zeros((0,), kernel.dtype))


def _matmul_backward(kind: str, layout: KernelLayout, saved: Any, g: Array) -> tuple[Array, Array]:
    rows, held, like = saved
    if kind == INT8:
        of_kernel = gradient(lambda x, g: x.T @ g, rows, g, held[0], layout)
    else:
        codes, of_rows = rows
        coded, scale = rounded(g * of_rows, (0, 1), OF_GRADIENTS[kind])
        product = functools.partial(_dot, left=0, right=0, dtype=g.dtype)
        of_kernel = gradient(product, codes, coded, held[0], layout) * scale.reshape(())
    return _gradient_of_rows(g, held, kind, layout), of_kernel.astype(like.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def matmul_with_codes(x: Array, held: Held, kind: str, layout: KernelLayout = WHOLE) -> Array:
    """`matmul` with what `rounded` gave of a kernel, codes [*I, *O] and their scales, which have no gradient."""
    return _product(x, held, kind, layout)[0]


def _codes_forward(x: Array, held: Held, kind: str, layout: KernelLayout) -> tuple[Array, Held]:
    return matmul_with_codes(x, held, kind, layout), held


def _codes_backward(kind: str, layout: KernelLayout, held: Held, g: Array) -> tuple[Array, None]:
    return _gradient_of_rows(g, held, kind, layout), None


matmul_with_codes.defvjp(_codes_forward, _codes_backward)


def _product(x: Array, held: Held, kind: str, layout: KernelLayout) -> tuple[Array, Held]:
    """(f[N, O] in x's type, the codes and scales of the rows)."""
    rows, of_rows = rounded(x, (1,), CODES[kind])
    codes, scale = _flat(held, x.shape[1], layout)
    y = _dot(rows, codes, 1, 0, x.dtype)
    return (y.astype(jnp.float32) * of_rows * scale).astype(x.dtype), (rows, of_rows)


def _gradient_of_rows(g: Array, held: Held, kind: str, layout: KernelLayout) -> Array:
    codes, scale = _flat(held, held[0].size // g.shape[1], layout)
    rows, of_rows = rounded(g * scale, (1,), OF_GRADIENTS[kind])
    return (_dot(rows, codes, 1, 1, g.dtype).astype(jnp.float32) * of_rows).astype(g.dtype)


def _flat(held: Held, inputs: int, layout: KernelLayout) -> Held:
    """A kernel's codes [I, O] and scales [1, O], made and then gathered."""
    codes, scale = held
    return gather(codes, layout).reshape(inputs, -1), scale.reshape(1, -1)


def _dot(a: Array, b: Array, left: int, right: int, dtype: Any) -> Array:
    """The product over axis `left` of a and `right` of b, in i32, or of floats in `dtype`, summed in f32."""
    dtype = jnp.int32 if a.dtype == jnp.int8 else dtype
    return jax.lax.dot_general(a, b, (((left,), (right,)), ((), ())), preferred_element_type=dtype)


def _power_of_two(x: Array) -> Array:
    """The least power of two from x f32[...] > 0 on, exactly; not finite where x is not."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    power = jax.lax.bitcast_convert_type((bits + _MANTISSA) & ~_MANTISSA, jnp.float32)
    return jnp.where(jnp.isfinite(x), power, math.nan)
