"""Best of n: the completion of a prompt with the highest score, and how far that moves the policy."""

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


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number: there is no order among them")
    return scores
