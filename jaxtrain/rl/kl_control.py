"""--kl_target: the coefficient of the KL penalty follows the KL of the completions from the reference model."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxtrain.ops import returns


class KlController(NamedTuple):
    """The first coefficient of the KL penalty, and how it follows the target; target 0 leaves it as it is."""

    coef: float
    target: float = 0.0
    horizon: float = 10_000.0


def next_coef(
    controller: KlController, coef: float, metrics: Mapping[str, np.ndarray], episodes: int
) -> float:
    """The coefficient of the next iteration's KL penalty (ops.returns.adaptive_kl)."""
    if not controller.target:
        return coef
    kl = metrics["objective/kl"].mean()
    return float(
        returns.adaptive_kl(coef, kl, target=controller.target, horizon=controller.horizon, episodes=episodes)
    )
