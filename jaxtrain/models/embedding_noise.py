"""NEFTune: noise on the embeddings while a model is fine-tuned."""

import jax
import jax.numpy as jnp
from jax import Array


def neftune_noise(alpha: float, segments: Array, width: int, keys: Array | None) -> Array | None:
    """f32[B, T, D], NEFTune's α / √(L D) · U(−1, 1), L being the document's length (arXiv:2310.05914, algorithm 1)."""
    if keys is None:
        return None

    def row(key: Array, segment: Array) -> Array:
        T = len(segment)
        length = jnp.zeros(T + 1).at[segment].add(1.0)[segment]
        return jax.random.uniform(key, (T, width), minval=-1.0) * (alpha / jnp.sqrt(length * width))[:, None]

    return jax.vmap(row)(keys, segments)
