"""Choosing among several completions of a prompt: best-of-n, rejection sampling, and how far they move a policy.

Everything here is NumPy in float64: the numbers are few, and the sums cancel.
"""

import math

import numpy as np


def best_of(scores: np.ndarray) -> np.ndarray:
    """i32[B]: which of N completions has the highest score, the first of equal ones. scores f32[B, N], finite."""
    return _finite(scores).argmax(-1).astype(np.int32)


def kl(n: int) -> float:
    """log n − (n − 1)/n, nats: KL(best-of-n || policy) where no two completions have one score.

    Exact for a policy without atoms. For one with them, as every language model is, it is an upper bound (theorem 1 of
    Beirami et al. 2024, arXiv:2401.01879), far above the truth where one completion has most of the probability.
    """
    if n < 1:
        raise ValueError(f"n={n}: best-of-n needs at least one completion")
    return math.log(n) - (n - 1) / n


def exact_kl(probabilities: np.ndarray, scores: np.ndarray, n: int) -> float:
    """KL(π_n || p), nats, of best-of-n from a finite policy p f[Y] with scores f[Y]: Σ_y π_n(y) log π_n(y)/p(y).

    π_n(y) = P_n(r_y) · p(y) / P(r_y), where P(s) is the probability of a score and P_n(s) = F(s)ⁿ − F(s⁻)ⁿ that of the
    best of n: of equal scores the first is taken. So it is also the KL of P_n from P. Raises ValueError where the
    probabilities are negative or do not sum to 1.
    """
    p, scores = np.asarray(probabilities, np.float64), _finite(scores)
    if p.shape != scores.shape or (p < 0).any() or abs(p.sum() - 1) > 1e-6 or n < 1:
        raise ValueError("exact_kl needs n >= 1, and a score for each of probabilities that sum to 1")
    _, group = np.unique(scores[p > 0], return_inverse=True)
    P = np.bincount(group, p[p > 0] / p.sum())
    F = np.cumsum(P)
    with np.errstate(divide="ignore"):  # of the lowest score P/F is 1, and log(1 − 1) is −∞ rightly
        below = n * np.log1p(-np.minimum(P / F, 1.0))  # log (F(s⁻)/F(s))ⁿ
    P_n = F**n * -np.expm1(below)
    seen = P_n > 0
    return float((P_n[seen] * np.log(P_n[seen] / P[seen])).sum())


def expected_best(scores: np.ndarray, k: int) -> np.ndarray:
    """f64[B]: the expected score of the best of k, estimated without bias from N ≥ k samples, scores f[B, N].

    Σ_i C(i−1, k−1)/C(N, k) · s_(i) over the scores in ascending order, i from 1: the mean over all sets of k of the N
    (Nakano et al. 2021, arXiv:2112.09332, appendix I).
    """
    scores = _finite(scores)
    N = scores.shape[-1]
    if not 1 <= k <= N:
        raise ValueError(f"k={k}: the best of k from {N} samples needs 1 <= k <= {N}")
    weights = np.array([math.comb(i, k - 1) / math.comb(N, k) for i in range(N)])
    return np.sort(scores, -1) @ weights


def above(scores: np.ndarray, threshold: float) -> np.ndarray:
    """bool[B, N]: which completions have a score that reaches the threshold."""
    return _finite(scores) >= threshold


def accept(scores: np.ndarray, keep: int, *, beta: float, seed: int) -> np.ndarray:
    """bool[B, N]: `keep` of N completions a prompt, as if sampled from p(y) e^{r(y)/β}. scores f32[B, N].

    Statistical rejection sampling, algorithm 1 of RSO (arXiv:2309.06657): in each pass over those not yet accepted,
    one is with probability exp((r − r_max)/β), r_max the highest of their scores; passes end when `keep` are. β near 0
    takes the best ones, a large β the first ones. A row's draws depend on the seed and its number alone. Unlike there,
    equal texts are not merged. Raises ValueError unless 0 <= keep <= N and beta > 0.
    """
    scores = _finite(scores)
    if not 0 <= keep <= scores.shape[-1] or beta <= 0:
        raise ValueError(f"keep={keep}, beta={beta}: keep at most {scores.shape[-1]}, with beta above 0")
    taken, number = np.zeros(scores.shape, bool), 0
    while (missing := keep - taken.sum(-1, keepdims=True)).any():
        left = np.where(taken, -np.inf, scores)
        highest = np.where(taken.all(-1), 0.0, left.max(-1))
        with np.errstate(over="ignore"):  # far below the highest: −∞ rightly
            chance = np.exp((left - highest[:, None]) / beta)
        accepted = np.random.default_rng((seed, number)).random(scores.shape) < chance
        taken |= accepted & (accepted.cumsum(-1) <= missing)
        number += 1
    return taken


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number: there is no order among them")
    return scores
