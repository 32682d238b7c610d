"""Best of n: the completion of a prompt with the highest score, what that is worth, and how far it moves the policy."""

import math
from collections.abc import Sequence

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


def expected(scores: np.ndarray, values: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """f64[len(counts)]: for each n the mean of `values` of the best of n by `scores`, from N samples, both f64[N].

    Σ_i C(i − 1, n − 1) / C(N, n) · v_(i), v in the order of the scores: the mean over all subsets of n samples, which
    is unbiased (appendix I of WebGPT, arXiv:2112.09332). Samples of one score take the mean of their values.
    """
    scores, values = _finite(scores), np.asarray(values, np.float64)
    N = len(scores)
    if not all(1 <= n <= N for n in counts):
        raise ValueError(f"counts={list(counts)}: each must be from 1 to the number of samples, {N}")
    _, place, size = np.unique(scores, return_inverse=True, return_counts=True)
    ordered = np.repeat(np.bincount(place, values) / size, size)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, N + 1)))])

    def log_choose(n: int | np.ndarray, k: int) -> np.ndarray:
        return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

    means = []
    for n in counts:
        i = np.arange(n - 1, N)
        weight = np.exp(log_choose(i, n - 1) - log_choose(N, n))
        means.append(weight @ ordered[i])
    return np.array(means)


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number: there is no order among them")
    return scores
