"""Best-of-n against enumeration of all draws, in float64."""

import itertools
import math

import numpy as np
import pytest

from jaxtrain.inference import best_of

P = np.array([0.4, 0.05, 0.25, 0.1, 0.2])
SCORES = {
    "distinct": np.array([0.3, 2.0, -1.0, 0.7, 0.1]),
    "ties": np.array([1.0, 2.0, 1.0, 2.0, -1.0]),
    "one score": np.zeros(5),
}


def enumerated(p, scores, n):
    """The distribution of the best of n, from every sequence of n draws."""
    found = np.zeros(len(p))
    for drawn in itertools.product(range(len(p)), repeat=n):
        found[max(drawn, key=lambda y: scores[y])] += math.prod(p[y] for y in drawn)  # the first of ties
    return found


def divergence(q, p):
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True) if a > 0)


def test_the_best_is_the_first_of_ties():
    scores = np.array([[1, 3, 3], [2, 2, 2], [-5, -7, -4]], np.float32)
    chosen = best_of.best_of(scores)
    assert chosen.tolist() == [1, 0, 2] and chosen.dtype == np.int32


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_exact_kl_is_that_of_the_enumerated_distribution(kind, n):
    wanted = divergence(enumerated(P, SCORES[kind], n), P)
    assert best_of.exact_kl(P, SCORES[kind], n) == pytest.approx(wanted, abs=1e-13)
    assert wanted <= best_of.kl(n) + 1e-13


def test_outcomes_that_never_happen_do_not_count():
    p, scores = np.array([0.5, 0.0, 0.5]), np.array([1.0, 9.0, 2.0])
    assert best_of.exact_kl(p, scores, 4) == best_of.exact_kl([0.5, 0.5], [1.0, 2.0], 4)


def test_the_formula_is_the_limit_of_many_outcomes_and_a_bound_of_few():
    size = 200_000
    fine = best_of.exact_kl(np.full(size, 1 / size), np.random.default_rng(0).permutation(size), 16)
    assert fine == pytest.approx(best_of.kl(16), rel=1e-3) and fine < best_of.kl(16)
    assert best_of.kl(16) == pytest.approx(math.log(16) - 15 / 16)
    assert best_of.exact_kl([1 - 1e-12, 1e-12], [0.0, 1.0], 4) == pytest.approx(
        4e-12 * math.log(4) - 3e-12, rel=1e-3
    )
    assert best_of.exact_kl([0.5, 0.5], [0.0, 1.0], 10**6) == pytest.approx(math.log(2))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_the_expected_best_of_k_is_the_mean_over_all_sets_of_k(k):
    scores = np.random.default_rng(1).normal(size=(4, 6)).round(1)
    wanted = [np.mean([max(each) for each in itertools.combinations(row, k)]) for row in scores]
    np.testing.assert_allclose(best_of.expected_best(scores, k), wanted, rtol=1e-12)


def test_the_expected_best_has_no_bias():
    """Over every draw of N = 4 from the finite policy, its mean is the exact expectation of the best of 2."""
    scores = SCORES["distinct"]
    mean = sum(
        math.prod(P[y] for y in drawn) * best_of.expected_best(scores[list(drawn)][None], 2)[0]
        for drawn in itertools.product(range(len(P)), repeat=4)
    )
    assert mean == pytest.approx(enumerated(P, scores, 2) @ scores, rel=1e-12)


def test_a_threshold_keeps_what_reaches_it():
    assert best_of.above(np.array([[0.5, 1.0], [1.5, -2.0]]), 1.0).tolist() == [[False, True], [True, False]]


def accepted(scores, keep, beta, taken=()):
    """The probability of each accepted set by algorithm 1 of RSO: every outcome of every pass."""
    left = [i for i in range(len(scores)) if i not in taken]
    if len(taken) == keep:
        return {frozenset(taken): 1.0}
    highest, found = max(scores[i] for i in left), {}
    for outcome in itertools.product([False, True], repeat=len(left)):
        chance, now = 1.0, list(taken)
        for i, yes in zip(left, outcome, strict=True):
            p = math.exp((scores[i] - highest) / beta)
            chance *= p if yes else 1 - p
            if yes and len(now) < keep:
                now.append(i)
        if chance:
            for made, p in accepted(scores, keep, beta, tuple(now)).items():
                found[made] = found.get(made, 0.0) + chance * p
    return found


def test_rejection_sampling_accepts_each_set_as_often_as_the_algorithm_says():
    scores, rows = np.array([0.2, 1.0, -0.5, 0.7]), 40_000
    wanted = accepted(scores, 2, 0.5)
    taken = best_of.accept(np.tile(scores, (rows, 1)), 2, beta=0.5, seed=3)
    assert (taken.sum(-1) == 2).all() and sum(wanted.values()) == pytest.approx(1)
    for made, p in wanted.items():
        share = taken[:, sorted(made)].all(-1).mean()
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / rows), made


def test_rejection_sampling_at_its_limits():
    scores = np.array([[0.0, 1e5, 2.0, -3.0], [5.0, 4.0, 3.0, 2.0]])
    best = best_of.accept(scores, 2, beta=1e-300, seed=0)
    assert best.tolist() == [[False, True, True, False], [True, True, False, False]]
    assert best_of.accept(scores, 4, beta=1.0, seed=0).all()
    assert not best_of.accept(scores, 0, beta=1.0, seed=0).any()


def test_a_row_is_accepted_from_whatever_its_neighbours_are():
    scores = np.random.default_rng(2).normal(size=(6, 5))
    whole = best_of.accept(scores, 2, beta=0.3, seed=7)
    assert np.array_equal(best_of.accept(scores[:3], 2, beta=0.3, seed=7), whole[:3])
    assert not np.array_equal(best_of.accept(scores, 2, beta=0.3, seed=8), whole)


REFUSED = {
    "no number": (lambda: best_of.best_of(np.array([[1.0, np.nan]])), "not a finite number"),
    "infinite": (lambda: best_of.accept(np.array([[1.0, np.inf]]), 1, beta=1, seed=0), "not a finite number"),
    "none drawn": (lambda: best_of.kl(0), "n=0"),
    "no distribution": (lambda: best_of.exact_kl([0.5, 0.6], [1.0, 2.0], 2), "sum to 1"),
    "negative": (lambda: best_of.exact_kl([1.5, -0.5], [1.0, 2.0], 2), "sum to 1"),
    "fewer scores": (lambda: best_of.exact_kl([0.5, 0.5], [1.0], 2), "a score for each"),
    "more than there are": (lambda: best_of.expected_best(np.zeros((1, 3)), 4), "1 <= k <= 3"),
    "keep too many": (lambda: best_of.accept(np.zeros((1, 3)), 4, beta=1, seed=0), "keep=4"),
    "no temperature": (lambda: best_of.accept(np.zeros((1, 3)), 1, beta=0, seed=0), "beta above 0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_answer_is_refused(kind):
    call, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        call()
