"""Jitter: initial parameters moved by a small relative amount, as another machine's rounding would move them."""

from collections.abc import Callable

import jax

from jaxtrain.types import Key, Params

STREAM = 0x6A697474  # far from the numbers by which a model's init splits its key


def jittered(init: Callable[[Key], Params], amount: float) -> Callable[[Key], Params]:
    """An init whose parameters are θ · (1 + amount · n), n ~ N(0, 1) from a stream of its own.

    A parameter that is 0 stays 0: the move is relative.
    """

    def moved(key: Key) -> Params:
        leaves, structure = jax.tree.flatten(init(key))
        keys = jax.random.split(jax.random.fold_in(key, STREAM), len(leaves))
        draws = [jax.random.normal(one, x.shape, x.dtype) for one, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, [x + x * amount * n for x, n in zip(leaves, draws, strict=True)])

    return moved
