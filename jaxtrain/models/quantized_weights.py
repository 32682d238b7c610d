"""Frozen kernels in 8 or 4 bits, under adapters (QLoRA, Dettmers et al. 2023, arXiv:2305.14314, section 3).

A quantized kernel stands in the place of the array as {"int8": i8[...], "scale": f32[...]}, a scale for each output, or
{"nf4": u8[...], "scale": f32[...]}, a scale for each block of 64 along one axis, which has two codes a byte and so half
the size. A layer dequantizes its own kernel where it uses it, forward and backward, so that no more than one layer's is
there at a time; with {"a", "b"[, "m"]} beside, it adds the adapter's product (equation 5).
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jaxtrain.config import ConfigError
from jaxtrain.ops import quantized_matmul, sharded_matmul
from jaxtrain.ops.placement import Names, laid
from jaxtrain.ops.quantized_matmul import AUTO, CODES, FP8, INT8
from jaxtrain.ops.sharded_matmul import KernelLayout
from jaxtrain.types import Axes, Params, sides

NF4 = "nf4"
KINDS = (INT8, NF4)  # of frozen kernels; in decode there are kernels in fp8, too
PRODUCT = "quantized_product"  # the name of what --remat=dots keeps, as of other products
BLOCK = 64
# NF4's values: quantiles of N(0, 1), scaled to [-1, 1], with an exact 0 (appendix E).
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BYTES = {
    INT8: 1.0,
    NF4: 0.5 + 4 / BLOCK,
}  # of an element, without int8's scales: one for all inputs of an output
Quantized = Mapping[str, Array]
Path = tuple[str, ...]


def is_quantized(kernel: Any) -> bool:
    """Whether what stands in a kernel's place is a quantized one."""
    return isinstance(kernel, Mapping) and any(kind in kernel for kind in (*KINDS, FP8))


def kernels(axes: Axes) -> list[Path]:
    """The kernels that are quantized: all but routers, on whose last bits it hangs what is chosen."""
    return [path for path in axes if path[-1] == "kernel" and "router" not in path]


def quantized_axes(axes: Axes, kind: str) -> Axes:
    """The logical axes of parameters whose kernels are quantized."""
    out = {path: names for path, names in axes.items() if path not in (found := set(kernels(axes)))}
    for path in found:
        _, reads, _ = sides(axes[path])
        names = axes[path]
        if kind == INT8:
            names = tuple(None if i in reads else name for i, name in enumerate(names))
        out |= {(*path, kind): axes[path], (*path, "scale"): names}
    return out


def quantize(params: Params, axes: Axes, kind: str) -> Params:
    """Parameters with quantized kernels. Raises ConfigError, naming the kernel, for one that has no blocks of 64."""
    return _mapped(params, axes, lambda kernel, path: quantized(kernel, axes[path], kind, "/".join(path)))


def as_trained(params: Params, axes: Axes, kind: str) -> Params:
    """The parameters f32[...] that adapters over quantized kernels were trained over; quantized ones as they are."""
    if kind not in KINDS:
        return params

    def rounded(kernel: Any, path: Path) -> Any:
        if is_quantized(kernel):
            return kernel
        return dequantized(quantized(kernel, axes[path], kind, "/".join(path)), jnp.float32)

    return _mapped(params, axes, rounded)


def quantized(kernel: Array, names: tuple[str | None, ...], kind: str, name: str = "kernel") -> Quantized:
    """One kernel, rounded to the nearest code."""
    _, reads, writes = sides(names)
    kernel = kernel.astype(jnp.float32)
    if kind == INT8:
        return in_int8(kernel, tuple(reads))
    axis = next((i for i in (*reversed(reads), *reversed(writes)) if kernel.shape[i] % BLOCK == 0), None)
    if axis is None:
        raise ConfigError(
            f"--base_weights=nf4: {name} has the shape {kernel.shape}, of which no axis is a multiple of the block of "
            f"{BLOCK}; use --base_weights=int8"
        )
    before, size, after = kernel.shape[:axis], kernel.shape[axis], kernel.shape[axis + 1 :]
    blocks = kernel.reshape(*before, size // BLOCK, BLOCK, *after)
    scale = jnp.abs(blocks).max(axis + 1, keepdims=True)
    blocks = blocks / jnp.where(scale > 0, scale, 1.0)
    codes = jnp.zeros(blocks.shape, jnp.uint8)
    for low, high in itertools.pairwise(LEVELS):
        codes += (blocks > (low + high) / 2).astype(jnp.uint8)
    pairs = jnp.moveaxis(codes.reshape(*before, size // 2, 2, *after), axis + 1, 0)
    return {NF4: pairs[0] | (pairs[1] << 4), "scale": scale.squeeze(axis + 1)}


def in_int8(x: Array, axes: tuple[int, ...]) -> Quantized:
    """The nearest codes i8[...] of x f[...], and a scale f32[...] for all that differs in these axes alone."""
    codes, scale = quantized_matmul.rounded(x, axes, jnp.int8)
    return {INT8: codes, "scale": scale}


def dequantized(kernel: Quantized, dtype: Any) -> Array:
    """f[...] of a quantized kernel's own shape, or of a layer's part of it; an adapter beside it has no part in it."""
    scale = kernel["scale"]
    if INT8 in kernel:
        return (kernel[INT8].astype(jnp.float32) * scale).astype(dtype)
    codes, axis = kernel[NF4], _blocked(kernel)
    values = jnp.stack([_levels(codes & 15), _levels(codes >> 4)], axis + 1)
    before, after = codes.shape[:axis], codes.shape[axis + 1 :]
    whole = values.reshape(*before, -1, BLOCK, *after) * jnp.expand_dims(scale, axis + 1)
    return whole.reshape(*before, -1, *after).astype(dtype)


def in_f32(kernel: Any) -> Array:
    """A kernel as f32[...], quantized or not."""
    return dequantized(kernel, jnp.float32) if is_quantized(kernel) else kernel


def shape(kernel: Any) -> tuple[int, ...]:
    """The shape of a kernel, quantized or not."""
    if not is_quantized(kernel):
        return kernel.shape
    if INT8 in kernel:
        return kernel[INT8].shape
    axis = _blocked(kernel)
    return tuple(n * 2 if i == axis else n for i, n in enumerate(kernel[NF4].shape))


def count(params: Params) -> int:
    """The number of parameters, a quantized one counted once."""
    leaves = jax.tree.leaves(params, is_leaf=is_quantized)
    return sum(math.prod(shape(leaf)) for leaf in leaves)


def adapted(kernel: Array, adapter: Mapping[str, Array], axes: tuple[Sequence[int], ...]) -> Array:
    """A kernel f32[...] with the product of its adapter's A and B, and columns as long as m (DoRA) where that is there.

    `axes` are the kernel's, as types.sides gives them. Without any of the three it is the kernel itself.
    """
    if "a" in adapter:
        stack, inputs, outputs = (math.prod(kernel.shape[i] for i in side) for side in axes)
        low_rank = adapter["a"].reshape(stack, inputs, -1) @ adapter["b"].reshape(stack, -1, outputs)
        kernel = kernel + low_rank.reshape(kernel.shape)
    if "m" not in adapter:
        return kernel
    reads = axes[1]
    return kernel * jnp.expand_dims(adapter["m"] / jax.lax.stop_gradient(column_norms(kernel, reads)), reads)


def column_norms(kernel: Array, reads: Sequence[int]) -> Array:
    """‖W‖ f32[...] over the inputs of each output, the axes that are read (arXiv:2402.09353, section 4.1)."""
    return jnp.sqrt(jnp.square(kernel).sum(tuple(reads)))


def kernel_of(module: nn.Module, init: Any, size: tuple[int, ...]) -> Any:
    """The parameter `kernel` of a module; Flax would refuse a quantized one for its shapes."""
    if module.has_variable("params", "kernel"):
        kernel = module.get_variable("params", "kernel")
        if is_quantized(kernel):
            return kernel
    return module.param("kernel", init, size)


def product(x: Array, kernel: Any, outputs: int, how: Any, names: Names, batch: tuple[int, ...]) -> Array:
    """x f[N, I] on a kernel of I inputs and O outputs, as f[N, O]; of a quantized one with its adapter's part.

    The product with frozen codes has no gradient of the kernel, and that of x dequantizes the kernel again. With the
    `matmul_dtype` of how, an AttentionExecution, all but the adapter's part is in 8 bits. `names` are the
    kernel's axes, and `batch` is (B, T) with B · T = N.
    """
    inputs, kind, dtype = x.shape[1], how.matmul_dtype, how.dtype
    layout = KernelLayout(names, batch, how.local, how.platform)
    if not is_quantized(kernel):
        if kind == AUTO:
            y = sharded_matmul.matmul(x, kernel, dtype, layout)
            return checkpoint_name(y, PRODUCT) if layout.split else y
        return checkpoint_name(quantized_matmul.matmul(x.astype(dtype), kernel, kind, layout), PRODUCT)
    x = x.astype(dtype)
    if kind == AUTO:
        y = _frozen_product(x, {name: kernel[name] for name in (*KINDS, "scale") if name in kernel}, outputs)
    else:
        require_codes(next(name for name in (*KINDS, FP8) if name in kernel), kind)
        held = kernel[kind], kernel["scale"]
        y = checkpoint_name(quantized_matmul.matmul_with_codes(x, held, kind, layout), PRODUCT)
    if "a" not in kernel:
        return y
    a, b = kernel["a"].reshape(inputs, -1), kernel["b"].reshape(-1, outputs)
    y = y + (x @ a.astype(x.dtype)) @ b.astype(x.dtype)
    if "m" not in kernel:
        return y
    norms = column_norms(dequantized(kernel, jnp.float32).reshape(inputs, outputs) + a @ b, [0])
    return y * (kernel["m"].reshape(outputs) / jax.lax.stop_gradient(norms)).astype(x.dtype)


def whole(kernel: Any, dtype: Any) -> Array:
    """The kernel f[E, I, O] of a layer's experts, its adapter's part added."""
    if not is_quantized(kernel):
        return kernel.astype(dtype)
    return adapted(dequantized(kernel, jnp.float32), kernel, ([0], [1], [2])).astype(dtype)


def unquantized(params: Params, axes: Axes) -> Params:
    """Parameters f32[...] of those with quantized kernels, adapters beside them merged."""

    def merged(kernel: Any, path: Path) -> Any:
        return adapted(in_f32(kernel), kernel, sides(axes[path])) if is_quantized(kernel) else kernel

    return _mapped(params, axes, merged)


def require_codes(held: str, kind: str) -> None:
    """Raises ConfigError where frozen kernels of the type `held` are no operands of products of a kind."""
    if kind not in (AUTO, held) and held in KINDS:
        other = "--base_weights=int8 or float32" if kind == INT8 else "--base_weights=float32"
        raise ConfigError(
            f"--matmul_dtype={kind}: kernels in --base_weights={held} are no operands of its products: take {other}, "
            "or --matmul_dtype=auto"
        )


def ready(name: str, leaf: Array, names: tuple[str | None, ...], dtype: Any) -> Array:
    """A member of a quantized kernel as decode wants it; `names` are the kernel's axes."""
    return laid(leaf, names) if name in (*KINDS, "scale") else leaf.astype(dtype)


def ready_leaf(name: str, leaf: Array, names: tuple[str | None, ...], how: Any) -> Any:
    """A parameter f32[...] as decode wants it: cast, or a kernel's codes where products are of such; then gathered."""
    rows = tuple("batch" if axis == "embed" else axis for axis in names)
    if how.matmul_dtype == AUTO or name != "kernel":
        return laid(laid(leaf.astype(how.dtype), rows), names)
    codes, scale = quantized_matmul.rounded(leaf, tuple(sides(names)[1]), CODES[how.matmul_dtype])
    return {how.matmul_dtype: laid(laid(codes, rows), names), "scale": laid(scale, names)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _frozen_product(x: Array, kernel: Quantized, outputs: int) -> Array:
    if INT8 in kernel:  # the codes are exact in bfloat16, and a scale of an output can wait
        y = x @ kernel[INT8].astype(x.dtype).reshape(-1, outputs)
        return (y.astype(jnp.float32) * _of_outputs(kernel, outputs)).astype(x.dtype)
    return x @ dequantized(kernel, x.dtype).reshape(-1, outputs)


def _forward(x: Array, kernel: Quantized, outputs: int) -> tuple[Array, Quantized]:
    return _frozen_product(x, kernel, outputs), kernel


def _backward(outputs: int, kernel: Quantized, g: Array) -> tuple[Array, None]:
    # Without the barrier XLA would keep what the forward pass dequantized, of all layers.
    kernel, g = jax.lax.optimization_barrier((kernel, g))
    if INT8 in kernel:
        scaled = (g.astype(jnp.float32) * _of_outputs(kernel, outputs)).astype(g.dtype)
        return scaled @ kernel[INT8].astype(g.dtype).reshape(-1, outputs).T, None
    return g @ dequantized(kernel, g.dtype).reshape(-1, outputs).T, None


_frozen_product.defvjp(_forward, _backward)


def _of_outputs(kernel: Quantized, outputs: int) -> Array:
    return kernel["scale"].reshape(outputs)


def _blocked(kernel: Quantized) -> int:
    """The axis of blocks, the only one along which codes and scales differ in number."""
    codes, scale = kernel[NF4].shape, kernel["scale"].shape
    return next(i for i, n in enumerate(codes) if n != scale[i])


def _levels(codes: Array) -> Array:
    """f32[...] of codes u8[...], exactly: one of the terms is not 0.

    A gather of single numbers is slow on accelerators; for selections jax would hold arrays of constants in a scan.
    """
    return sum((codes == code) * jnp.float32(level) for code, level in enumerate(LEVELS))


def _mapped(params: Params, axes: Axes, f: Any) -> Params:
    """Parameters with f(kernel, path) in the place of each kernel that is quantized."""
    out = jax.tree.map(lambda x: x, params)
    for path in kernels(axes):
        parent = functools.reduce(lambda tree, name: tree[name], path[:-1], out)
        parent[path[-1]] = f(parent[path[-1]], path)
    return out
