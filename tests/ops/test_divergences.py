"""Divergences against float64 by hand, at their ends, and over the teacher's likeliest tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.ops import divergences as d

RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(0, 2, (2, 3, 7)), RNG.normal(0, 2, (2, 3, 7))
KINDS = ("forward_kl", "reverse_kl", "jsd")


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(-1)


def by_hand(kind, t, s, beta):
    if kind == "forward_kl":
        return kl(t, s)
    if kind == "reverse_kl":
        return kl(s, t)
    m = beta * t + (1 - beta) * s
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    ("kind", "beta"), [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.1), ("jsd", 0.7)]
)
def test_each_is_its_formula(kind, beta, temperature):
    found = d.divergence(TEACHER, jnp.array(STUDENT), kind, beta=beta, temperature=temperature)
    wanted = by_hand(kind, softmax(TEACHER / temperature), softmax(STUDENT / temperature), beta)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


def test_the_mixture_has_beta_of_the_teacher():
    """(.9, .1) and (.2, .8) at β = .1: .0407; with β and 1 − β swapped in the mixture it would be .3215."""
    t, s = np.log([0.9, 0.1]), np.log([0.2, 0.8])
    found = float(d.divergence(t, jnp.array(s), "jsd", beta=0.1))
    m = [0.1 * 0.9 + 0.9 * 0.2, 0.1 * 0.1 + 0.9 * 0.8]
    wanted = 0.1 * kl(np.exp(t), np.array(m)) + 0.9 * kl(np.exp(s), np.array(m))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    swapped = [0.9 * 0.9 + 0.1 * 0.2, 0.9 * 0.1 + 0.1 * 0.8]
    wrong = 0.1 * kl(np.exp(t), np.array(swapped)) + 0.9 * kl(np.exp(s), np.array(swapped))
    assert abs(found - wrong) > 0.2


def test_jsd_is_symmetric_under_a_swap_and_its_ends_are_the_two_kls():
    for beta in (0.1, 0.5):
        one = d.divergence(TEACHER, jnp.array(STUDENT), "jsd", beta=beta)
        np.testing.assert_allclose(
            one, d.divergence(STUDENT, jnp.array(TEACHER), "jsd", beta=1 - beta), rtol=1e-4
        )
    for beta, kind in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        end = d.divergence(TEACHER, jnp.array(STUDENT), "jsd", beta=beta)
        assert np.array_equal(end, d.divergence(TEACHER, jnp.array(STUDENT), kind))
    small = np.asarray(d.divergence(TEACHER, jnp.array(STUDENT), "jsd", beta=1e-3)) / 1e-3
    np.testing.assert_allclose(small, d.divergence(TEACHER, jnp.array(STUDENT), "forward_kl"), rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_student_unlike_its_teacher_diverges_and_only_it_has_a_gradient(kind):
    assert np.abs(d.divergence(TEACHER, jnp.array(TEACHER), kind)).max() < 1e-6
    assert np.min(d.divergence(TEACHER, jnp.array(STUDENT), kind)) > 0
    teacher, student = jax.grad(lambda t, s: d.divergence(t, s, kind).sum(), (0, 1))(
        jnp.array(TEACHER), jnp.array(STUDENT)
    )
    assert not teacher.any() and np.abs(student).max() > 1e-2


def test_the_gradient_of_forward_kl_is_the_difference_of_the_probabilities():
    found = jax.grad(lambda s: d.divergence(TEACHER, s, "forward_kl", temperature=2.0).sum())(
        jnp.array(STUDENT)
    )
    np.testing.assert_allclose(found, (softmax(STUDENT / 2) - softmax(TEACHER / 2)) / 2, atol=1e-6)


def test_what_pads_a_vocabulary_is_left_out():
    padded = np.concatenate([TEACHER, np.full((2, 3, 5), 9.0)], -1)
    for t, s in ((padded, STUDENT), (TEACHER, np.concatenate([STUDENT, np.full((2, 3, 5), 9.0)], -1))):
        np.testing.assert_allclose(
            d.divergence(t, jnp.array(s), "jsd"), d.divergence(TEACHER, jnp.array(STUDENT), "jsd"), rtol=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_likeliest_tokens_and_the_rest_as_one_outcome(kind, temperature):
    """Never renormalised: the k + 1 outcomes sum to 1 on both sides."""
    k = 3
    ids, logps = d.top_k(jnp.array(TEACHER), k, temperature)
    found = d.divergence_of_top(ids, logps, jnp.array(STUDENT), kind, beta=0.3, temperature=temperature)
    t, s = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    order = np.argsort(-t, -1)
    joined = [np.take_along_axis(x, order, -1) for x in (t, s)]
    joined = [np.concatenate([x[..., :k], x[..., k:].sum(-1, keepdims=True)], -1) for x in joined]
    np.testing.assert_allclose(found, by_hand(kind, *joined, 0.3), rtol=1e-4)
    whole = d.divergence(TEACHER, jnp.array(STUDENT), kind, beta=0.3, temperature=temperature)
    assert (np.asarray(found) <= np.asarray(whole) + 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_are_the_whole_distribution_with_its_gradient(kind):
    ids, logps = d.top_k(jnp.array(TEACHER), 7)
    whole, top = (
        jax.value_and_grad(lambda s, f=f: f(s).sum())(jnp.array(STUDENT))
        for f in (
            lambda s: d.divergence(TEACHER, s, kind),
            lambda s: d.divergence_of_top(ids, logps, s, kind),
        )
    )
    np.testing.assert_allclose(top[0], whole[0], rtol=1e-4)
    np.testing.assert_allclose(top[1], whole[1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_places_without_a_token_add_nothing(kind):
    """−1 fills up what is less than k; a position of nothing else is 0, its gradient too."""
    ids, logps = (np.array(x) for x in d.top_k(jnp.array(TEACHER), 2))
    more = np.full((2, 3, 2), -1), np.full((2, 3, 2), 5.0, np.float32)
    wide = np.concatenate([ids, more[0]], -1), np.concatenate([logps, more[1]], -1)
    wide[0][0, 0] = -1
    value, grad = jax.value_and_grad(
        lambda s: (
            d.divergence_of_top(*map(jnp.array, wide), s, kind) * jnp.array([[1.0, 2, 3], [4, 5, 6]])
        ).sum()
    )(jnp.array(STUDENT))
    narrow = np.asarray(d.divergence_of_top(ids, logps, jnp.array(STUDENT), kind))
    np.testing.assert_allclose(value, (narrow * [[0, 2, 3], [4, 5, 6]]).sum(), rtol=1e-5)
    assert not grad[0, 0].any() and np.abs(grad[0, 1]).max() > 1e-3 and np.isfinite(grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_the_student_does_not_have_are_among_the_others(kind):
    """As of a teacher with a larger vocabulary: their mass is left to the others, as where none is given."""
    ids, logps = (np.array(x) for x in d.top_k(jnp.array(TEACHER), 3))
    for beyond in (7, 12):
        found, wanted = (
            d.divergence_of_top(np.where(np.arange(3) == 1, one, ids), logps, jnp.array(STUDENT), kind)
            for one in (beyond, -1)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_renormalised_likeliest_tokens_would_be_another_number():
    """The defect that a bucket for the rest is there against: it hides what the student thinks of the others."""
    t, s = np.log([0.35, 0.25, 0.2, 0.2]), np.log([0.01, 0.01, 0.49, 0.49])
    ids, logps = d.top_k(jnp.array(t), 2)
    found = float(d.divergence_of_top(ids, logps, jnp.array(s), "forward_kl"))
    np.testing.assert_allclose(
        found, kl(np.array([0.35, 0.25, 0.4]), np.array([0.01, 0.01, 0.98])), rtol=1e-5
    )
    renormalised = kl(np.array([0.35, 0.25]) / 0.6, np.array([0.5, 0.5]))
    assert found > 1.5 and renormalised < 0.02
