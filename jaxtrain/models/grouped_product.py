"""Products over groups of rows, each with a kernel of its own, on accelerators.

jax.lax.ragged_dot is a kernel of XLA's on a TPU, forward and in the gradient of the rows. The gradient of the kernels
XLA computes there as one product of all rows for each group, so it has megablox' kernel (Gale et al. 2022,
arXiv:2211.15841), which jax comes with.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

ROWS, COLUMNS = 512, 1024  # of a tile, at most
LANES = 128  # what the number of rows is a multiple of


def ragged_product(x: Array, kernel: Array, sizes: Array, platform: str) -> Array:
    """f[N, O] of rows f[N, I]: the first sizes[0] rows with kernel[0] of f[E, I, O], the next sizes[1] with kernel[1].

    What stands in rows beyond the sum of sizes i32[E] is undefined, and has no part in the gradient of the kernels.
    """
    if platform == "tpu":
        return with_megablox(x, kernel, sizes, False)
    return jax.lax.ragged_dot(x, kernel, sizes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def with_megablox(x: Array, kernel: Array, sizes: Array, interpret: bool) -> Array:
    """jax.lax.ragged_dot; the gradient of the kernels is megablox', on a CPU interpreted."""
    del interpret
    return jax.lax.ragged_dot(x, kernel, sizes)


def _forward(x: Array, kernel: Array, sizes: Array, interpret: bool) -> tuple[Array, Any]:
    return with_megablox(x, kernel, sizes, interpret), (x, kernel, sizes)


def _backward(interpret: bool, saved: Any, g: Array) -> tuple[Array, Array, None]:
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    x, kernel, sizes = saved
    of_rows = jax.lax.ragged_dot(g, kernel.swapaxes(1, 2), sizes)
    missing = -len(x) % LANES
    lhs, rhs = (jnp.pad(each, ((0, missing), (0, 0))) for each in (x, g))
    rows = next(n for n in (ROWS, ROWS // 2, LANES) if len(lhs) % n == 0)
    tiles = (rows, min(COLUMNS, x.shape[1]), min(COLUMNS, g.shape[1]))
    of_kernel = tgmm(lhs.T, rhs, sizes, kernel.dtype, tiles, interpret=interpret)
    return of_rows, of_kernel, None


with_megablox.defvjp(_forward, _backward)
