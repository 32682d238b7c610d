"""Products and lookups in a lower precision whose sums stay in f32, as f32 training's do.

In f32 each is the plain operation. In bfloat16 the operands are bfloat16; what is summed over many terms (a score, a
logit, the gradient of a table over its tokens) is summed, and given on, in f32: bfloat16 has 8 bits, so a sum of
hundreds of terms stops growing, and a logit of 20 is rounded by up to .06 nats.
"""

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_vjp
def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _matmul_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(a, b), (a, b)


def _matmul_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    a, b = saved
    g = g.astype(a.dtype)  # a product of f32 and bfloat16 would run at f32's speed
    return g @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ g


_matmul.defvjp(_matmul_forward, _matmul_backward)


def matmul(a: Array, b: Array) -> Array:
    """f32[..., M, N] = a @ b of f[..., M, K] and f[..., K, N] with the same leading axes."""
    return a @ b if a.dtype == jnp.float32 else _matmul(a, b)


@jax.custom_vjp
def _project(x: Array, weight: Array, master: Array) -> Array:
    del master
    return jnp.einsum("...d,vd->...v", x, weight, preferred_element_type=jnp.float32)


def _project_forward(x: Array, weight: Array, master: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _project(x, weight, master), (x, weight, jnp.zeros((0,), master.dtype))


def _project_backward(saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, None, Array]:
    x, weight, like = saved
    g = g.astype(x.dtype)
    gradient = jnp.einsum("...v,...d->vd", g, x, preferred_element_type=jnp.float32)
    return jnp.einsum("...v,vd->...d", g, weight), None, gradient.astype(like.dtype)


_project.defvjp(_project_forward, _project_backward)


def project(x: Array, weight: Array, master: Array | None = None) -> Array:
    """f32[..., V] = x @ weightᵀ of f[..., D] and f[V, D].

    `master`: the f32 parameter that `weight` was cast from. The gradient goes to it, in f32, and none to `weight`.
    """
    if x.dtype == jnp.float32:
        return x @ weight.T
    if master is None:
        return jnp.einsum("...d,vd->...v", x, weight, preferred_element_type=jnp.float32)
    return _project(x, jax.lax.stop_gradient(weight), master)


@jax.custom_vjp
def _lookup(weight: Array, master: Array, ids: Array) -> Array:
    del master
    return weight[ids]


def _lookup_forward(weight: Array, master: Array, ids: Array) -> tuple[Array, tuple[Array, Array]]:
    return weight[ids], (jnp.zeros((0, *master.shape), master.dtype), ids)


def _lookup_backward(saved: tuple[Array, Array], g: Array) -> tuple[None, Array, None]:
    like, ids = saved
    gradient = jnp.zeros(like.shape[1:], jnp.float32).at[ids].add(g.astype(jnp.float32))
    return None, gradient.astype(like.dtype), None


_lookup.defvjp(_lookup_forward, _lookup_backward)


def lookup(weight: Array, master: Array, ids: Array) -> Array:
    """f[..., D], the rows `ids` i32[...] of weight f[V, D], which was cast from the parameter `master`.

    The gradient goes to `master`, and a row's is summed over its tokens in f32.
    """
    if weight.dtype == master.dtype:
        return weight[ids]
    return _lookup(jax.lax.stop_gradient(weight), master, ids)
