"""Sums that stay in f32 where the operands are bfloat16, beside float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.ops import mixed_precision
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.types import Head

pytestmark = pytest.mark.usefixtures("optimized")

V, D, TOKENS = 512, 16, 1 << 15


def rounded(x):
    """The nearest bfloat16s, so that a cast loses nothing."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))


def off(a, b):
    """The relative error of an array, L2."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.2, TOKENS) - 1, V - 1)
    return ids, rounded(rng.normal(size=(TOKENS, D)) + 0.5), rounded(rng.normal(size=(V, D)))


def test_a_row_s_gradient_is_summed_over_its_tokens_in_f32(drawn):
    ids, g, table = drawn

    def loss(table):
        return (mixed_precision.lookup(table.astype(jnp.bfloat16), table, ids).astype(jnp.float32) * g).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(table)
    wanted = np.zeros((V, D))
    np.add.at(wanted, ids, g)
    assert gradient.dtype == jnp.float32 and off(gradient, wanted) < 1e-5
    np.testing.assert_allclose(value, (table[ids].astype(np.float64) * g).sum(), rtol=1e-4)

    # What the plain lookup gives, where the sum itself is bfloat16: a row of 10,000 tokens stops growing.
    def add(total, one):
        return total + one, None

    bare, _ = jax.lax.scan(add, jnp.zeros(D, jnp.bfloat16), jnp.asarray(g[ids == 0], jnp.bfloat16))
    assert off(bare, wanted[0]) > 0.1


def test_f32_is_the_plain_operation_to_the_bit(drawn):
    ids, g, table = drawn
    assert np.array_equal(mixed_precision.lookup(table, table, ids), table[ids])
    # Of jax: NumPy's own product of two of its arrays adds in another order on some processors.
    x, table = jnp.asarray(g[:64]), jnp.asarray(table)
    assert np.array_equal(mixed_precision.matmul(x, table.T), x @ table.T)
    assert np.array_equal(mixed_precision.project(x, table), x @ table.T)


def test_scores_are_not_rounded(drawn):
    _, g, table = drawn
    a, b = (jnp.asarray(x, jnp.bfloat16).reshape(2, -1, D) * 4 for x in (g[:64], table[:64]))
    wanted = np.asarray(a, np.float64) @ np.asarray(b, np.float64).swapaxes(-1, -2)
    scores = mixed_precision.matmul(a, b.swapaxes(-1, -2))
    assert scores.dtype == jnp.float32 and np.abs(scores - wanted).max() < 1e-4
    assert np.abs(np.asarray((a @ b.swapaxes(-1, -2)).astype(jnp.float32)) - wanted).max() > 0.1
    grads = jax.grad(lambda *x: (mixed_precision.matmul(*x) ** 2).sum(), (0, 1))(a, b.swapaxes(-1, -2))
    exact = jax.grad(lambda *x: ((x[0] @ x[1]) ** 2).sum(), (0, 1))(
        *(x.astype(jnp.float32) for x in (a, b.swapaxes(-1, -2)))
    )
    assert [x.dtype for x in grads] == [jnp.bfloat16] * 2
    assert max(off(x.astype(jnp.float32), y) for x, y in zip(grads, exact, strict=True)) < 5e-3


@pytest.mark.parametrize("limit", [2**30, 512 * V])
def test_log_probabilities_and_the_unembedding_s_gradient(drawn, limit):
    ids, g, table = drawn
    hidden, targets = rounded(g[:4096] * 2).reshape(4, 1024, D), ids[:4096].reshape(4, 1024)

    def loss(weight, hidden, dtype):
        cast = weight.astype(dtype)
        head = Head(cast, 0.0, limit, None if dtype == jnp.float32 else weight)
        return token_stats(hidden.astype(dtype), head, targets)["logps"].sum()

    f = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    (value, grads), (wanted, exact) = f(table, hidden, jnp.bfloat16), f(table, hidden, jnp.float32)
    assert abs(value - wanted) / targets.size < 1e-5  # nats a token
    assert grads[0].dtype == jnp.float32 and off(grads[0], exact[0]) < 4e-3 and off(grads[1], exact[1]) < 5e-3
    bare = f(jnp.asarray(table, jnp.bfloat16), jnp.asarray(hidden, jnp.bfloat16), jnp.float32)[1][0]
    assert bare.dtype == jnp.bfloat16  # a gradient is of its parameter's type


def test_log_probabilities_of_500_tokens_are_those_of_f32_logits(drawn):
    """In sum within .02 nats; with logits rounded to bfloat16 they are not."""
    ids, g, table = drawn
    hidden = jnp.asarray(g[:4000] * 2, jnp.bfloat16).reshape(8, 500, D)
    weight, targets = jnp.asarray(table, jnp.bfloat16), ids[:4000].reshape(8, 500)
    exact = np.asarray(hidden, np.float64) @ np.asarray(weight, np.float64).T

    def sums(x):
        target = np.take_along_axis(x, np.asarray(targets)[..., None], -1)[..., 0]
        return (target - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)) - x.max(-1)).sum(-1)

    logps = token_stats(hidden, Head(weight, 0.0, 2**30, None), targets)["logps"].sum(-1)
    assert np.abs(logps - sums(exact)).max() < 0.02
    assert np.abs(sums(np.asarray(exact.astype(jnp.bfloat16), np.float64)) - sums(exact)).max() > 0.02
