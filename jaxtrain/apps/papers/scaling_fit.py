"""Fits of L(N, D) = E + A/N^α + B/D^β to runs' final losses (Hoffmann et al. 2022, arXiv:2203.15556, section 3.3)."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

DELTA = 1e-3  # of the Huber loss, on log losses
POWERS = tuple(i / 10 for i in range(1, 16))  # the grid of α and β
STARTS = 4  # its best points, from which L-BFGS starts


class ScalingLaw(NamedTuple):
    """The parameters of the law; N counts parameters, D tokens, L is in nats a token."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n: float, d: float) -> float:
        """L(N, D)."""
        return self.E + self.A / n**self.alpha + self.B / d**self.beta


def fit(n: Sequence[float], d: Sequence[float], losses: Sequence[float]) -> ScalingLaw:
    """The law that minimises Σ Huber_δ(LSE(a − α log N, b − β log D, e) − log L), by L-BFGS from the best of a
    grid of powers.

    Equation 3 of the paper, with A = exp a, B = exp b, E = exp e.
    """
    import numpy as np
    from scipy import optimize

    log_n, log_d, target = (np.log(np.asarray(x, np.float64)) for x in (n, d, losses))

    def objective(theta: Any) -> tuple[float, Any]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
        top = terms.max(0)
        log_sum = top + np.log(np.exp(terms - top).sum(0))
        share = np.exp(terms - log_sum)
        off = log_sum - target
        inside = np.abs(off) <= DELTA
        value = np.where(inside, off**2 / 2, DELTA * (np.abs(off) - DELTA / 2)).sum()
        slope = np.where(inside, off, DELTA * np.sign(off))
        weighted = share * slope
        gradient = [weighted[0].sum(), weighted[1].sum(), weighted[2].sum(),
                    -(weighted[0] * log_n).sum(), -(weighted[1] * log_d).sum()]  # fmt: skip
        # The values are of the order of 1e-3: scaled, so that L-BFGS's tolerances do not end it early.
        return value / DELTA**2, np.asarray(gradient) / DELTA**2

    starts = sorted(
        (_linear(n, d, losses, *powers) for powers in itertools.product(POWERS, POWERS)), key=lambda x: x[0]
    )
    found = [
        optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        for _, start in starts[:STARTS]
    ]
    a, b, e, alpha, beta = min(found, key=lambda one: one.fun).x
    return ScalingLaw(float(np.exp(e)), float(np.exp(a)), float(np.exp(b)), float(alpha), float(beta))


def _linear(n: Any, d: Any, losses: Any, alpha: float, beta: float) -> tuple[float, list[float]]:
    """(squared relative error, (a, b, e, α, β)) of the best E, A and B, not below 0, for two powers: a linear fit."""
    import numpy as np
    from scipy import optimize

    n, d, losses = (np.asarray(x, np.float64) for x in (n, d, losses))
    columns = np.stack([n**-alpha, d**-beta, np.ones_like(n)], -1) / losses[:, None]
    size = columns.max(0)  # they differ by orders of magnitude
    best, error = optimize.nnls(columns / size, np.ones_like(losses))
    a, b, e = np.log(np.maximum(best / size, 1e-6))
    return float(error), [float(a), float(b), float(e), alpha, beta]
