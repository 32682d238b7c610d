"""--entropy_target: the weight of the entropy bonus follows the entropy of the policy that samples.

Adaptive entropy control of Skywork-OR1 (arXiv:2505.22312): with e the entropy of an iteration's rollout and c its
coefficient, the bonus has weight c where e ≤ target and 0 elsewhere, and the next coefficient is c + Δ where e is below
the target, c − Δ where it is above, never below 0.
"""

from typing import NamedTuple

import numpy as np

from jaxtrain.ops.entropy_bonus import COLUMN
from jaxtrain.rl.config import PolicyLoss
from jaxtrain.rl.rollout_store import Rollout

METRIC = "policy/entropy_coef"


class EntropyControl(NamedTuple):
    """How the coefficient follows the entropy; target 0 leaves it as it is."""

    coef: float = 0.0  # the first one
    target: float = 0.0  # nats a token
    step: float = 0.005  # Δ

    @classmethod
    def of(cls, loss: PolicyLoss) -> "EntropyControl":
        """As the flags of a loss say."""
        return cls(loss.entropy_coef, loss.entropy_target, loss.entropy_step)


def controlled(control: EntropyControl, rollout: Rollout) -> Rollout:
    """The rollout with its column of coefficients and the next iteration's; itself where there is no target.

    The entropy is estimated by −log π of the sampled tokens, whose mean over many it is.
    """
    if not control.target:
        return rollout
    coef = control.coef if rollout.entropy_coef is None else rollout.entropy_coef
    inside = rollout.columns["mask"] > 0
    tokens = -rollout.columns["old_logps"][inside].astype(np.float64)
    entropy = float(tokens.mean()) if tokens.size else control.target
    weight = np.full(len(inside), coef * (entropy <= control.target), np.float32)
    columns = rollout.columns | {COLUMN: weight, f"stats/{METRIC}": weight}
    following = max(0.0, coef + control.step * float(np.sign(control.target - entropy)))
    return rollout._replace(columns=columns, entropy_coef=coef, next_entropy_coef=following)
