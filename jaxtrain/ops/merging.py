"""Merges of models that have the same shapes: formulas on one tensor, in float32."""

import math

import jax
import jax.numpy as jnp

from jaxtrain.types import Array

_PARALLEL = 0.9995  # |cos| above which the arc between two tensors is taken for a line


def slerp(a: Array, b: Array, t: float) -> Array:
    """sin((1−t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b, where cos Ω = ⟨a, b⟩ / (‖a‖ ‖b‖): f32, of the tensors' shape.

    Spherical linear interpolation (Shoemake 1985) of whole tensors, seen as vectors. Where they are almost parallel or
    one is 0: (1−t) a + t b.
    """
    norms = jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel())
    cos = jnp.vdot(a, b) / jnp.where(norms > 0, norms, 1.0)
    straight = (norms == 0) | (jnp.abs(cos) > _PARALLEL)
    angle = jnp.arccos(jnp.where(straight, 0.0, cos))
    arc = (jnp.sin((1 - t) * angle) * a + jnp.sin(t * angle) * b) / jnp.sin(angle)
    return jnp.where(straight, (1 - t) * a + t * b, arc)


def trimmed(vector: Array, density: float) -> Array:
    """The ⌈density · n⌉ entries of largest magnitude of a tensor, those equal to the least of them too; 0 elsewhere."""
    size = jnp.abs(vector.ravel())
    kept = math.ceil(density * size.size)
    least = jnp.sort(size)[size.size - kept]
    return jnp.where(jnp.abs(vector) >= least, vector, 0.0)


def ties(vectors: Array, weights: Array, density: float) -> Array:
    """Σ wᵢ τ̂ᵢ [sgn τ̂ᵢ = γ] / Σ wᵢ [sgn τ̂ᵢ = γ], with γ = sgn Σ wᵢ τ̂ᵢ and τ̂ᵢ = trimmed(τᵢ); 0 where none has γ.

    TIES-merging (arXiv:2306.01708, algorithm 1) of task vectors f32[M, ...] with weights f32[M] above 0. The paper
    trims over the whole model; this, like mergekit, over one tensor, so that no model is gathered on a host.
    """
    kept = jax.vmap(lambda vector: trimmed(vector, density))(vectors)
    weights = weights.reshape(-1, *(1,) * (kept.ndim - 1))
    elected = jnp.sign((weights * kept).sum(0))
    agrees = weights * ((jnp.sign(kept) == elected) & (kept != 0))
    total = agrees.sum(0)
    return (agrees * kept).sum(0) / jnp.where(total > 0, total, 1.0)
