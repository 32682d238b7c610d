"""The residual stream in a mesh: how tokens enter it, and how attention and feed-forward read it and add to it."""

from typing import Any

from jax import Array

from jaxtrain.ops.mixed_precision import lookup
from jaxtrain.ops.placement import laid, moved

# Logical axes of activations f[B, T, D]: of the stream, and of what kernels that are split over `tensor` read and give.
STREAM, ROWS = ("batch", "act_time", "act_embed"), ("batch", "time", "act_embed")


def residual(x: Array) -> Array:
    """The stream f[B, T, D], its time split over the devices that share heads, which else would all do the same.

    So norms and what is saved for the backward pass are split there (arXiv:2205.05198, section 4.2.2).
    """
    return laid(x, STREAM)


def from_residual(x: Array) -> Array:
    """Rows f[B, T, D] of the stream, or of its norm, with all of their time; the gradient is split as the stream is."""
    return moved(laid(x, STREAM), ROWS, (STREAM,))


def to_residual(x: Array) -> Array:
    """The sum over devices of what each has of f[B, T, D], split as the stream is; the gradient has all of the time."""
    return moved(x, STREAM, (STREAM, ROWS))


def embedded(table: Array, axis: str, dtype: Any, ids: Array) -> Array:
    """f[B, T, D], the rows ids i32[B, T] of a table f[V, D] whose first axis is `axis`.

    Each device looks all rows up in its own columns, and the rows are then exchanged, as are their gradients: the table
    is neither gathered nor its gradient reduced over `fsdp`, and tokens are fewer than rows of a table.
    """
    own = (axis, "embed")
    table = laid(table, own)
    x = lookup(laid(table.astype(dtype), own), table, laid(ids, ("lookup", None)))
    return laid(laid(x, ("lookup", None, "embed")), ROWS)
