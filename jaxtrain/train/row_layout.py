"""Which axes of a batch's columns are rows and time: what a mesh with a context axis splits."""

from collections.abc import Mapping
from typing import Any

from jaxtrain.config import ConfigError


def time_axes(batch: Mapping[str, Any]) -> dict[str, int | None]:
    """The axis along which each column has the time of its rows, by the columns' shapes alone; None where it has none.

    Where `tokens` is [B, T] or [B, N, T], so is whatever begins with the same shape: targets, masks, log-probabilities
    [B, T], a teacher's tokens [B, T, K]. Columns `PREFIX/...` follow `PREFIX/tokens`. All others, and all columns of a
    batch without tokens, such as prompts to complete, lie by row. A column whose shape is such by chance is only laid
    out otherwise: its values, and what is computed from them, are the same.
    """
    axes: dict[str, int | None] = {}
    for name, column in batch.items():
        prefix, slash, _ = name.rpartition("/")
        tokens = batch.get(f"{prefix}{slash}tokens")
        rank = len(tokens.shape) if tokens is not None else 0
        along = rank > 1 and tuple(column.shape[:rank]) == tuple(tokens.shape)
        axes[name] = rank - 1 if along else None
    return axes


def require_parts(length: int, context: int) -> None:
    """Raises ConfigError unless rows of `length` tokens split over a context axis, which takes two parts a device."""
    if context > 1 and length % (2 * context):
        raise ConfigError(
            f"rows of {length} tokens do not split over context:{context}, which takes two equal parts a device: set "
            f"--seq_len to a multiple of {2 * context}, or another context in --mesh"
        )
