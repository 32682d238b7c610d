"""Hand-computed values; a reward model whose scores are its parameters, f32[M, B, N]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.objectives.reward import reward
from jaxtrain.ops import preference

SCORES = np.array([[[2.0, 1.0], [0.5, 0.5], [-1.0, 3.0]], [[0.0, 1.0], [4.0, 1.0], [0.5, 0.25]]], "f")
PAIRS = {
    "prefer": np.tile(np.array([[0.0, 1.0], [0.0, 0.0]], "f"), (3, 1, 1)),
    "margin": np.array([0.0, 0.5, 0.0], "f"),
}


@functools.partial(jax.jit, static_argnames=("loss", "centering"))
def run(scores, batch, loss="logistic", centering=0.0):
    def total(scores):
        out = reward(scores, (), batch, None, scores=lambda p, b: p, loss=loss, centering=centering)
        return out.total, out

    (_, out), grad = jax.value_and_grad(total, has_aux=True)(scores)
    return out, grad


def values(loss):
    return {name: float(total) / float(count) for name, (total, count) in loss.metrics.items()}


def nls(z):
    return np.logaddexp(0, -z)


def test_logistic_by_hand():
    loss, _ = run(SCORES, PAIRS)
    gaps = SCORES[..., 0] - SCORES[..., 1] - PAIRS["margin"]
    np.testing.assert_allclose(loss.total, nls(gaps).sum(), rtol=1e-6)
    assert float(loss.weight) == 3  # pairs, not pairs times members
    found = values(loss)
    np.testing.assert_allclose(found["loss"], nls(gaps).mean(), rtol=1e-6)
    mean = SCORES.mean(0)  # (1, 1), (2.25, .75), (-.25, 1.625): a tie of scores is wrong
    np.testing.assert_allclose(found["rewards/chosen"], mean[:, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(found["rewards/rejected"], mean[:, 1].mean(), rtol=1e-6)
    np.testing.assert_allclose(found["rewards/margins"], (mean[:, 0] - mean[:, 1]).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["rewards/accuracies"], 1 / 3, rtol=1e-6)


def test_hinge_and_centering_by_hand():
    loss, _ = run(SCORES[:1], PAIRS, loss="hinge", centering=0.01)
    extra = 0.01 * (3.0**2 + 1.0 + 2.0**2)
    np.testing.assert_allclose(loss.total, 0 + 0.5 + 4.0 + extra, rtol=1e-6)
    found = values(loss)
    np.testing.assert_allclose([found["loss"], found["centering"]], [1.5, extra / 3], rtol=1e-6)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "plackett_luce"])
def test_each_member_trains_as_if_it_were_alone(loss):
    batch = {**PAIRS, "rank": np.array([[0, 1], [0, 1], [1, 0]])}
    together, grad = run(SCORES, batch, loss=loss, centering=0.02)
    for m in range(2):
        alone, own = run(SCORES[m : m + 1], batch, loss=loss, centering=0.02)
        np.testing.assert_allclose(grad[m], own[0], rtol=1e-6)
        assert float(alone.weight) == float(together.weight)


def test_bootstrap_weights_are_the_members_own():
    weight = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 2.0]], "f")
    loss, grad = run(SCORES, {**PAIRS, "weight": weight}, centering=0.01)
    plain, free = run(SCORES, PAIRS, centering=0.01)
    np.testing.assert_allclose(grad, free * weight.T[..., None], rtol=1e-6)
    assert float(loss.weight) == float(plain.weight)


def test_of_two_alternatives_plackett_luce_is_logistic():
    rank = np.array([[0, 1], [1, 0], [0, 1]])
    prefer = np.asarray(preference.pairs(rank))
    logistic, _ = run(SCORES, {"prefer": prefer, "margin": np.zeros(3, "f")})
    luce, _ = run(SCORES, {"rank": rank}, loss="plackett_luce")
    np.testing.assert_allclose(luce.total, logistic.total, rtol=1e-6)
    assert values(luce) == pytest.approx(values(logistic), rel=1e-6)


def test_soft_labels_and_ties_count_in_the_loss_and_only_what_is_decided_in_the_accuracy():
    prefer = np.array([[[0, 0.2], [0.8, 0]], [[0, 0.5], [0.5, 0]], [[0, 1], [0, 0]]], "f")
    loss, _ = run(SCORES[:1], {"prefer": prefer, "margin": np.zeros(3, "f")})
    wanted = 0.2 * nls(1.0) + 0.8 * nls(-1.0) + np.log(2) + nls(-4.0)
    np.testing.assert_allclose(loss.total, wanted, rtol=1e-6)
    assert float(loss.weight) == pytest.approx(3)
    # Decided are row 0, whose second alternative is preferred, and row 2.
    assert [float(x) for x in loss.metrics["rewards/accuracies"]] == [0.0, 2.0]
    np.testing.assert_allclose(values(loss)["rewards/chosen"], (1.0 - 1.0) / 2, atol=1e-6)


def test_a_ranking_is_one_unit_or_as_many_as_its_pairs():
    scores = np.array([[[3.0, 1.0, 2.0, 9.0]]], "f")
    rank = np.array([[0, 1, 2, -1]])
    prefer = np.asarray(preference.pairs(rank))
    pairs = nls(np.array([2.0, 1.0, -1.0]))
    mean, _ = run(scores, {"prefer": prefer, "margin": np.zeros(1, "f")})
    flat, _ = run(scores, {"prefer": 3 * prefer, "margin": np.zeros(1, "f")})
    np.testing.assert_allclose([mean.total, flat.total], [pairs.mean(), pairs.sum()], rtol=1e-6)
    np.testing.assert_allclose([mean.weight, flat.weight], [1, 3], rtol=1e-6)
    assert [float(x) for x in flat.metrics["rewards/accuracies"]] == [2.0, 3.0]


@pytest.mark.parametrize("loss", ["logistic", "hinge", "plackett_luce"])
def test_rows_and_alternatives_that_are_not_there_count_nothing(loss):
    rank = np.array([[0, 1, -1], [-1, -1, -1], [0, 0, -1]])
    batch = {"prefer": np.asarray(preference.pairs(rank)), "rank": rank, "margin": np.zeros(3, "f")}
    scores = np.where(rank < 0, np.nan, np.arange(9.0).reshape(3, 3))[None].astype("f")
    out, grad = run(scores, batch, loss=loss, centering=0.5)
    assert float(out.weight) == 1 and float(out.metrics["rewards/accuracies"][1]) == 1
    assert np.isfinite(out.total) and np.isfinite(grad).all() and not grad[0, 1:].any()


def test_an_unknown_loss_names_the_known_ones():
    with pytest.raises(ValueError, match="logistic, hinge, plackett_luce"):
        run(jnp.asarray(SCORES), PAIRS, loss="sigmoid")
