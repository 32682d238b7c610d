"""The gradient of a grouped product by the TPU's kernel, interpreted, beside one group after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.models.grouped_product import ragged_product, with_megablox


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("sizes", [(3, 0, 100, 20), (128, 0, 0, 0), (0, 0, 0, 0), (50, 50, 14, 14)])
def test_the_gradient_is_that_of_each_group_by_itself(sizes):
    """Groups without rows, and rows without a group, NaN in them or not."""
    x, kernel, sizes = draw(130, 24), draw(4, 24, 20, seed=1), np.array(sizes, np.int32)
    used = sizes.sum()
    weight = jnp.where(jnp.arange(130)[:, None] < used, draw(130, 20, seed=2), 0.0)

    def total(f, x, kernel):
        return (jnp.where(weight != 0, f(x, kernel), 0.0) * weight).sum()

    def plain(x, kernel):
        return jnp.concatenate(
            [part @ k for part, k in zip(jnp.split(x[:used], np.cumsum(sizes)[:-1]), kernel, strict=True)]
            + [jnp.zeros((130 - used, 20))]
        )

    wanted = jax.grad(lambda *args: total(plain, *args), (0, 1))(x, kernel)
    dirty = x.at[used:].set(np.nan)
    for rows in (x, dirty):
        found = jax.grad(
            lambda *args: total(lambda x, k: with_megablox(x, k, jnp.asarray(sizes), True), *args), (0, 1)
        )(rows, kernel)
        np.testing.assert_allclose(found[0][:used], wanted[0][:used], atol=1e-4)
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-4)


def test_other_platforms_have_jax_own():
    x, kernel, sizes = draw(6, 4), draw(2, 4, 3, seed=1), jnp.array([2, 4])
    np.testing.assert_allclose(
        ragged_product(x, kernel, sizes, "gpu"),
        jnp.concatenate([x[:2] @ kernel[0], x[2:] @ kernel[1]]),
        atol=1e-5,
    )
