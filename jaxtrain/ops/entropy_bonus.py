"""The entropy bonus of a loss, whose weight is a setting or, where it adapts, a column of the batch."""

from collections.abc import Mapping

from jax import Array

COLUMN = "entropy_coef"  # f32[B]


def entropy_bonus(entropy: Array, batch: Mapping[str, Array], coef: float) -> Array:
    """f32[]: the sum of weighted entropies f32[B, T], each row times its coefficient, `coef` where COLUMN is none."""
    if COLUMN in batch:
        return (batch[COLUMN] * entropy.sum(1)).sum()
    return coef * entropy.sum()
