"""Where arrays lie in a mesh, by the logical names of their axes: constraints that XLA's partitioner follows.

train/parallel.py has the rules from names to mesh axes, and makes them active. Without them nothing here acts.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

Names = tuple[str | None, ...]


def axes_of(name: str) -> tuple[str, ...]:
    """The axes of the mesh that a logical axis is split over; none without rules."""
    rules = dict(nn.get_logical_axis_rules())
    axes = (rules and rules[name]) or ()
    return (axes,) if isinstance(axes, str) else axes


def parts(name: str) -> int:
    """The number of parts that a logical axis is split into."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[axis] for axis in axes_of(name))


def whole(names: Names) -> Names:
    """The names of an array that is whole along the axis that FSDP splits."""
    return tuple(None if name == "embed" else name for name in names)


def laid(x: Array, names: Names) -> Array:
    """x, split over the mesh as its axes' names say; an axis that does not divide, or has no name, is whole."""
    if not nn.get_logical_axis_rules():
        return x
    fitting = (
        name if name and n % parts(name) == 0 else None for name, n in zip(names, x.shape, strict=True)
    )
    return nn.with_logical_constraint(x, tuple(fitting))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def moved(x: Array, there: Names, back: tuple[Names, ...]) -> Array:
    """x laid `there`; its gradient is laid as each of `back` says, one after the other.

    The gradient of a plain constraint is laid as the constraint is. Where a gathered array's gradient is a sum over
    devices, each would then have the whole sum (an all-reduce) in place of its own part (a reduce-scatter).
    """
    del back
    return laid(x, there)


def _moved_forward(x: Array, there: Names, back: tuple[Names, ...]) -> tuple[Array, None]:
    return moved(x, there, back), None


def _moved_backward(there: Names, back: tuple[Names, ...], saved: None, g: Array) -> tuple[Array]:
    del there, saved
    return (functools.reduce(laid, back, g),)


moved.defvjp(_moved_forward, _moved_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def copied(x: Array, parts: tuple[int, int], names: Names) -> Array:
    """f[rows, time, ...], x whole on each device, as many times as there are parts of a batch's rows and time.

    A function of one part of a batch and one copy is computed on one device, its gradient too; that of x is their sum,
    which is laid as x is, by `names`. So a loop that adds to the gradient is done before devices exchange anything.
    """
    return laid(jnp.broadcast_to(laid(x, whole(names)), (*parts, *x.shape)), ("batch", "time", *whole(names)))


def _copied_forward(x: Array, parts: tuple[int, int], names: Names) -> tuple[Array, None]:
    return copied(x, parts, names), None


def _copied_backward(parts: tuple[int, int], names: Names, saved: None, g: Array) -> tuple[Array]:
    del parts, saved
    total = laid(g, ("batch", "time", *whole(names))).sum((0, 1))
    return (laid(laid(total, whole(names)), names),)


copied.defvjp(_copied_forward, _copied_backward)


def by_part(
    f: Callable[..., dict[str, Array]],
    parts: tuple[int, int],
    weights: tuple[Array | None, ...],
    columns: tuple[Array, ...],
) -> dict[str, Array]:
    """f(weights, columns), arrays [B, T] by name, of each part of the columns [B, T, ...] on the devices that have it.

    Tables f[V, D] among the weights are gathered once, and their gradients reduced once, whatever loops f has. A batch
    that does not divide into parts of rows and time is computed as one.
    """
    (B, T), (rows, time) = columns[0].shape[:2], parts
    if rows * time == 1 or B % rows or T % time:
        return f(weights, columns)

    def split(x: Array) -> Array:
        x = x.reshape(rows, B // rows, time, T // time, *x.shape[2:]).swapaxes(1, 2)
        return laid(x, ("batch", "time", *[None] * (x.ndim - 2)))

    copies = tuple(None if x is None else copied(x, parts, ("vocab", "embed")) for x in weights)
    out = jax.vmap(jax.vmap(f))(copies, tuple(map(split, columns)))
    return {name: x.swapaxes(1, 2).reshape(B, T) for name, x in out.items()}
