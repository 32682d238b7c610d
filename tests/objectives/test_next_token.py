"""Hand-computed values in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.objectives.next_token import next_token
from jaxtrain.types import LM, Head

LOGITS = np.array(
    [[[0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [3.0, 0.0, 0.0]], [[0.0, 0.0, 5.0], [2.0, 1.0, 0.0], [9.0, 9.0, 9.0]]]
)
TARGETS = np.array([[2, 0, 0], [0, 1, 2]])
MASK = np.array([[1.0, 1.0, 0.0], [1.0, 0.5, 0.0]])

# A model whose hidden states are its parameters, so that the logits are the numbers above.
MODEL = LM(
    None, {}, lambda params, batch, rng=None: params, lambda params: Head(jnp.eye(3), 0.0, 2**20), None, None
)
BATCH = {"targets": TARGETS, "mask": MASK.astype("f"), "bytes": np.array([5.0, 3.0], "f")}

LSE = np.log(np.exp(LOGITS).sum(-1))
NLL = (LSE - np.take_along_axis(LOGITS, TARGETS[..., None], -1)[..., 0]) * MASK


def run(batch, **kwargs):
    return next_token(jnp.asarray(LOGITS, jnp.float32), (), batch, None, model=MODEL, **kwargs)


def test_sums_of_a_weighted_mask():
    loss = run(BATCH)
    # By hand: log(1 + e + e²) - 2, log 3, log(2 + e⁵), half of log(1 + e + e²) - 1.
    first, third = np.log(1 + np.e + np.e**2), np.log(2 + np.e**5)
    np.testing.assert_allclose(loss.total, first - 2 + np.log(3) + third + 0.5 * (first - 1), rtol=1e-6)
    np.testing.assert_allclose(loss.total, NLL.sum(), rtol=1e-6)
    assert float(loss.weight) == 3.5
    metrics = {name: (float(a), float(b)) for name, (a, b) in loss.metrics.items()}
    np.testing.assert_allclose(metrics["loss"], (NLL.sum(), 3.5), rtol=1e-6)
    np.testing.assert_allclose(metrics["bits_per_byte"], (NLL.sum() / np.log(2), 8.0), rtol=1e-6)
    # [0, 1] is one of three that are equally likely; [1, 0] and [1, 1] are wrong.
    np.testing.assert_allclose(metrics["accuracy"], (1 + 1 / 3, 3.5), rtol=1e-6)


def test_z_loss_is_in_the_total_and_not_in_the_loss():
    loss, extra = run(BATCH, z_loss=0.01), 0.01 * (LSE**2 * MASK).sum()
    np.testing.assert_allclose(loss.total, NLL.sum() + extra, rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["z_loss"][0], extra, rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["loss"][0], NLL.sum(), rtol=1e-6)


def test_bits_above_entropy_count_only_rows_whose_probability_is_known():
    known = {**BATCH, "logp": np.array([-1.25, 7.0], "f"), "has_logp": np.array([1.0, 0.0], "f")}
    bits, size = run(known).metrics["bits_per_byte_above_entropy"]
    np.testing.assert_allclose(bits, (NLL[0].sum() - 1.25) / np.log(2), rtol=1e-5)
    assert float(size) == 5.0


def test_the_gradient_is_softmax_minus_one_hot():
    grad = jax.grad(lambda x: next_token(x, (), BATCH, None, model=MODEL).total)(
        jnp.asarray(LOGITS, jnp.float32)
    )
    wanted = (np.exp(LOGITS - LSE[..., None]) - np.eye(3)[TARGETS]) * MASK[..., None]
    np.testing.assert_allclose(grad, wanted, atol=1e-6)


def test_what_is_not_finite_outside_the_mask_does_not_enter():
    hidden = jnp.asarray(LOGITS, jnp.float32).at[:, 2].set(jnp.nan)
    f = functools.partial(next_token, batch=BATCH, frozen=(), rng=None, model=MODEL, z_loss=0.1)
    assert jnp.isfinite(f(hidden).total)
