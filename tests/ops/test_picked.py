"""One entry of each row, by comparison."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.ops.logprobs import token_stats
from jaxtrain.ops.picked import pick
from jaxtrain.types import Head


def test_the_entry_itself_whatever_stands_beside_it():
    x = np.array([[1.5, -np.inf, 3.0], [np.nan, -0.0, np.inf], [-np.inf, 2.0, 7.0]], np.float32)
    np.testing.assert_array_equal(pick(x, np.array([0, 1, 0])), [1.5, 0.0, -np.inf])


def test_the_gradient_is_that_of_a_gather():
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(3, 4, 9)).astype("f"), rng.normal(size=(3, 4)).astype("f")
    index = rng.integers(0, 9, (3, 4))
    gathered = lambda x: (jnp.take_along_axis(x, index[..., None], -1)[..., 0] * g).sum()  # noqa: E731
    picked = lambda x: (pick(x, index) * g).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(picked)(x), jax.grad(gathered)(x))


def test_a_loop_over_chunks_takes_no_array_of_the_logits_size():
    """What does not change is taken out of a loop, as an array that each pass reads: such as the zeros of a select."""
    rng = np.random.default_rng(0)
    B, T, V = 2, 12, 33
    hidden, weight = rng.normal(size=(B, T, 5)).astype("f"), rng.normal(size=(V, 5)).astype("f")
    targets = rng.integers(0, V, (B, T))

    def loss(weight):
        head = Head(weight, 0.0, B * T * V // 3, compare=True)
        return token_stats(hidden, head, targets, want=("logps", "correct"))["logps"].sum()

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "scan":
                yield from (v.aval.size for v in eqn.invars)
            for value in eqn.params.values():
                if hasattr(value, "jaxpr"):
                    yield from sizes(value.jaxpr)

    found = list(sizes(jax.make_jaxpr(jax.grad(loss))(weight).jaxpr))
    assert found and max(found) < B * T // 3 * V
