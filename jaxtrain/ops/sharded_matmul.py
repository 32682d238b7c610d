"""Products with a kernel that a mesh has in parts: it is gathered for each, and its gradient reduced to the parts.

Left to itself, XLA's partitioner may work a product with a split kernel in as many steps as there are parts, and reads
and writes all sums in each. And where both a mesh's rows and a kernel's parts are split, it may have every device end
up with the whole gradient. Here a kernel is exchanged in the type of computation, one layer at a time, in the forward
pass and again in the backward pass, so that none is kept in between.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.ops.placement import Names, axes_of, laid, parts, whole
from jaxtrain.types import Shards

LARGEST_RING = 8  # devices over which a TPU's compiler leaves a reduce-scatter as it is


class KernelLayout(NamedTuple):
    """Where a kernel f[*I, *O] lies, and activations f[N, I] of N = B · T tokens beside it."""

    names: Names = ()  # the logical axes of the kernel; empty: it is whole
    batch: tuple[int, ...] = ()  # (B, T)
    shards: Shards | None = None  # of a mesh
    platform: str = ""  # of the devices

    @property
    def split(self) -> bool:
        """Whether devices have parts of the kernel that they exchange."""
        return "embed" in self.names and parts("embed") > 1


def input_axes(kernel: Array, inputs: int) -> int:
    """How many of the axes of a kernel [*I, *O] are those of its inputs."""
    return next(n for n in range(1, kernel.ndim + 1) if math.prod(kernel.shape[:n]) == inputs)


def matmul(x: Array, kernel: Array, dtype: Any, layout: KernelLayout) -> Array:
    """f[N, O] = x f[N, I] @ kernel f32[*I, *O] in a type."""
    if not layout.split:
        return x @ kernel.astype(dtype).reshape(x.shape[1], -1)
    return _matmul(x, kernel, dtype, layout)


def gather(x: Array, layout: KernelLayout) -> Array:
    """A kernel, or its codes, whole along the axis that FSDP splits: the parts are what is sent."""
    return laid(laid(x, layout.names), whole(layout.names)) if layout.split else x


def gradient(
    product: Callable[[Array, Array], Array], x: Array, g: Array, kernel: Array, layout: KernelLayout
) -> Array:
    """f[*I, *O], laid as the kernel: the sum over all tokens of product(x f[n, I], g f[n, O]) f[I, O].

    Each device computes the product of its own tokens. Devices with parts of the kernel then get the sums of their own
    parts alone (a reduce-scatter), and only those are summed over the other devices.
    """
    if not layout.split:
        return product(x, g).reshape(kernel.shape)
    names, (B, T), shards, platform = layout
    at = names.index("embed")
    reads = input_axes(kernel, x.shape[1])
    if shards is None or B % parts("batch") or T % parts("time"):
        return laid(product(x, g).reshape(kernel.shape), names)
    owners = axes_of("embed")
    others = tuple(axis for axis in axes_of("batch") + axes_of("time") if axis not in owners)

    def part(own: Array, x: Array, g: Array) -> Array:
        n = x.shape[0] * x.shape[1]
        total = product(x.reshape(n, -1), g.reshape(n, -1))
        total = total.reshape(*own.shape[:at], kernel.shape[at], *own.shape[at + 1 :])
        if own.shape[at] == kernel.shape[at]:
            return jax.lax.psum(total, (*owners, *others))
        return jax.lax.psum(_scattered(total, at, owners, platform), others)

    of_x, of_g = (("batch", "time", *side) for side in (whole(names[:reads]), whole(names[reads:])))
    x = x.reshape(B, T, *kernel.shape[:reads])
    g = g.reshape(B, T, *kernel.shape[reads:])
    return shards.split(part, (names, of_x, of_g))(kernel, x, g)


def _scattered(x: Array, at: int, owners: tuple[str, ...], platform: str) -> Array:
    """The sum over devices of x, of which each has its part along an axis.

    Of more than 8 devices a TPU's compiler makes an all-reduce, of twice the bytes, unless neighbours sum first.
    """
    x = jnp.moveaxis(x, at, 0)
    shape, x = x.shape[1:], x.reshape(x.shape[0], -1)
    for axis, n in ((axis, jax.lax.axis_size(axis)) for axis in owners):
        if n == 1:
            continue
        near = next(i for i in range(math.isqrt(n), n + 1) if n % i == 0)
        if platform != "tpu" or n <= LARGEST_RING or near == n:
            x = jax.lax.psum_scatter(x, axis, scatter_dimension=0, tiled=True)
            continue
        blocks = np.arange(n).reshape(-1, near)
        x = jax.lax.psum_scatter(
            x, axis, scatter_dimension=0, axis_index_groups=blocks.T.tolist(), tiled=True
        )
        x = jax.lax.psum_scatter(x, axis, scatter_dimension=0, axis_index_groups=blocks.tolist(), tiled=True)
    return jnp.moveaxis(x.reshape(-1, *shape), 0, at)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _matmul(x: Array, kernel: Array, dtype: Any, layout: KernelLayout) -> Array:
    return x @ _flat(kernel, dtype, layout, x.shape[1])


def _flat(kernel: Array, dtype: Any, layout: KernelLayout, inputs: int) -> Array:
    return gather(kernel.astype(dtype), layout).reshape(inputs, -1)


def _forward(x: Array, kernel: Array, dtype: Any, layout: KernelLayout) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(x, kernel, dtype, layout), (x, kernel)


def _backward(dtype: Any, layout: KernelLayout, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    of_kernel = gradient(lambda x, g: x.T @ g, x.astype(dtype), g, kernel, layout)
    of_x = g @ _flat(kernel, dtype, layout, x.shape[1]).T
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


_matmul.defvjp(_forward, _backward)
