"""What the objectives on single tokens share."""

import jax.numpy as jnp
from jax import Array

from jaxtrain.ops.logprobs import token_stats
from jaxtrain.types import LM, Batch, Key, Params


def masked_stats(
    params: Params, batch: Batch, rng: Key | None, *, model: LM, want: tuple[str, ...]
) -> tuple[dict[str, Array], Array]:
    """Statistics of the targets (ops.logprobs.STATS), 0 where the mask is 0, and the mask; f32[B, T] each."""
    stats = token_stats(model.hidden(params, batch, rng), model.head(params), batch["targets"], want=want)
    mask = batch["mask"].astype(jnp.float32)
    return {name: jnp.where(mask > 0, x, 0.0) for name, x in stats.items()}, mask


def z_term(lse: Array, mask: Array, z_loss: float) -> Array:
    """z · Σ m · (logsumexp)², f32[]: keeps the logits' normaliser near 1 (PaLM, section 5, arXiv:2204.02311)."""
    return z_loss * (lse**2 * mask).sum()
