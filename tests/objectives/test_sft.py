"""Hand-computed values in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.objectives.sft import _token_loss, sft
from tests.objectives.test_next_token import BATCH, LOGITS, LSE, MASK, MODEL, NLL, TARGETS

SMOOTH = (LSE - LOGITS.mean(-1)) * MASK  # −Σ_v log p(v) / V


@functools.partial(jax.jit, static_argnames=("loss", "dft_power", "label_smoothing", "z_loss"))
def run(logits, loss="nll", dft_power=1.0, label_smoothing=0.0, z_loss=0.0):
    def total(x):
        settings = {"dft_power": dft_power, "label_smoothing": label_smoothing, "z_loss": z_loss}
        out = sft(x, (), BATCH, None, model=MODEL, loss=loss, **settings)
        return out.total, out

    return jax.value_and_grad(total, has_aux=True)(logits)


def of(**kwargs):
    (_, loss), grad = run(jnp.asarray(LOGITS, jnp.float32), **kwargs)
    return loss, np.asarray(grad)


def test_nll_is_that_of_next_token():
    loss, _ = of()
    np.testing.assert_allclose(loss.total, NLL.sum(), rtol=1e-6)
    assert float(loss.weight) == MASK.sum() and set(loss.metrics) == {"loss", "accuracy"}


def test_dft_weighs_by_a_probability_that_is_a_constant():
    loss, grad = of(loss="dft")
    weight = np.exp(np.take_along_axis(LOGITS, TARGETS[..., None], -1)[..., 0] - LSE)
    np.testing.assert_allclose(loss.total, (weight * NLL).sum(), rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["loss"][0], NLL.sum(), rtol=1e-6)  # the plain NLL
    softmax = np.exp(LOGITS - LSE[..., None])
    wanted = (weight * MASK)[..., None] * (softmax - np.eye(3)[TARGETS])  # not that of −p log p
    np.testing.assert_allclose(grad, wanted, atol=1e-6)


def test_a_power_of_the_probability_is_a_temperature_of_the_data():
    loss, _ = of(loss="dft", dft_power=0.5)
    weight = np.exp(0.5 * (np.take_along_axis(LOGITS, TARGETS[..., None], -1)[..., 0] - LSE))
    np.testing.assert_allclose(loss.total, (weight * NLL).sum(), rtol=1e-6)
    # The gradient over data of distribution q is 0 where p is q at temperature 1 - 0.3.
    q = jnp.array([0.7, 0.2, 0.1])

    def expected(logits):
        return (q * _token_loss({"logps": jax.nn.log_softmax(logits)}, "dft", 0.3, 0.0)).sum()

    np.testing.assert_allclose(jax.grad(expected)(jnp.log(q) / 0.7), 0, atol=1e-7)
    assert np.abs(jax.grad(expected)(jnp.log(q))).max() > 0.01


def test_label_smoothing_takes_its_share_for_the_uniform_distribution():
    loss, grad = of(label_smoothing=0.3)
    np.testing.assert_allclose(loss.total, 0.7 * NLL.sum() + 0.3 * SMOOTH.sum(), rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["loss"][0], NLL.sum(), rtol=1e-6)
    target = 0.7 * np.eye(3)[TARGETS] + 0.3 / 3
    np.testing.assert_allclose(grad, (np.exp(LOGITS - LSE[..., None]) - target) * MASK[..., None], atol=1e-6)


def test_all_of_it_together():
    loss, _ = of(loss="dft", label_smoothing=0.3, z_loss=0.01)
    weight = np.exp(np.take_along_axis(LOGITS, TARGETS[..., None], -1)[..., 0] - LSE)
    z = 0.01 * (LSE**2 * MASK).sum()
    np.testing.assert_allclose(loss.total, (weight * (0.7 * NLL + 0.3 * SMOOTH)).sum() + z, rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["z_loss"][0], z, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_outside_the_mask_does_not_enter(bad):
    (total, _), grad = run(jnp.asarray(LOGITS, jnp.float32).at[:, 2].set(bad), "dft", 1.0, 0.3, 0.01)
    wanted, _ = of(loss="dft", label_smoothing=0.3, z_loss=0.01)
    assert float(total) == float(wanted.total)
    assert jnp.isfinite(grad[:, :2]).all()


def test_an_unknown_loss_names_the_known_ones():
    with pytest.raises(ValueError, match="nll, dft"):
        of(loss="ce")
