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
def test_the_formula_bounds_the_kl_of_a_finite_policy(kind, n):
    assert divergence(enumerated(P, SCORES[kind], n), P) <= best_of.kl(n) + 1e-13


def test_the_formula_is_the_limit_of_many_distinct_scores():
    """Of Y equally likely completions the r-th has probability (r/Y)^n - ((r-1)/Y)^n to be the best of n."""
    size, n = 200_000, 16
    rank = np.arange(1, size + 1) / size
    best = rank**n - (rank - 1 / size) ** n
    exact = (best[best > 0] * np.log(best[best > 0] * size)).sum()
    assert exact == pytest.approx(best_of.kl(n), rel=1e-3) and exact < best_of.kl(n)
    assert best_of.kl(n) == pytest.approx(math.log(16) - 15 / 16)


REFUSED = {
    "no number": (lambda: best_of.best_of(np.array([[1.0, np.nan]])), "not a finite number"),
    "infinite": (lambda: best_of.best_of(np.array([[1.0, np.inf]])), "not a finite number"),
    "none drawn": (lambda: best_of.kl(0), "n=0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_answer_is_refused(kind):
    call, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", SCORES)
def test_the_expected_value_is_the_mean_over_all_subsets(kind):
    scores, values = SCORES[kind], np.array([1.0, -2.0, 4.0, 0.5, 3.0])

    def best(subset):
        top = [i for i in subset if scores[i] == scores[list(subset)].max()]
        return values[top].mean()

    wanted = [np.mean([best(s) for s in itertools.combinations(range(5), n)]) for n in (1, 2, 3, 5)]
    if kind == "ties":  # two of one score may stand in a subset alone or together: their mean either way
        pooled = np.array([5 / 2, -0.75, 5 / 2, -0.75, 3.0])
        wanted = [
            np.mean([pooled[max(s, key=lambda i: scores[i])] for s in itertools.combinations(range(5), n)])
            for n in (1, 2, 3, 5)
        ]
    assert best_of.expected(scores, values, (1, 2, 3, 5)) == pytest.approx(wanted, abs=1e-12)


def test_the_expected_value_of_many_samples():
    # The best of n uniform numbers is n / (n + 1) on average.
    u = np.random.default_rng(0).random(20_000)
    assert best_of.expected(u, u, (1, 10, 1_000)) == pytest.approx([1 / 2, 10 / 11, 1_000 / 1_001], abs=0.01)
    with pytest.raises(ValueError, match="from 1 to the number of samples, 5"):
        best_of.expected(P, P, (6,))
