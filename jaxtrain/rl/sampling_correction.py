"""The difference between the policy that samples and the one that is trained: reported, and corrected in the loss.

A sampler computes log-probabilities by another program than the trainer, in another type or on another machine, and
with --async_steps from older parameters. The trainer computes them anew, and a token's loss has the importance weight
between the two (ops.importance). As every surrogate is proportional to its advantage, the weight is a factor of that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.config import Failure
from jaxtrain.ops.importance import importance_weights, logp_difference
from jaxtrain.rl.config import RolloutSampler

COLUMN = "sampler_logps"  # f32[R, T] of a rollout's rows


def sampler_logps(mask: np.ndarray, logps: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """COLUMN, the log-probabilities of each row's sampled tokens where its mask f32[R, T] is above 0.

    Empty where a sampler gives none.
    """
    if any(one is None for one in logps):
        return {}
    column = np.zeros(mask.shape, np.float32)
    column[mask > 0] = np.concatenate(logps) if logps else ()
    return {COLUMN: column}


def corrected(advantages: Callable[..., Any], how: RolloutSampler) -> Callable[..., Any]:
    """The advantages of rl/advantages.py, weighted as `how` says, with metrics of the difference.

    `sampling/logp_difference` is by completion the mean of |log π − log μ| over its tokens, `_max` the largest;
    `sampling/importance_weight` the mean weight and `sampling/masked` the share of tokens of weight 0, where there are
    weights.
    """

    def run(rows: dict[str, Array], *args: Any) -> tuple[dict[str, Array], dict[str, Array]]:
        columns, metrics = advantages(rows, *args)
        if COLUMN not in rows:
            if how.corrects():
                raise Failure(
                    "--is_cap, --is_mask: the sampler gives no log-probabilities of its tokens; leave them out"
                )
            return columns, metrics
        mean, largest = logp_difference(rows["old_logps"], rows[COLUMN], rows["mask"])
        metrics |= {"sampling/logp_difference": mean, "sampling/logp_difference_max": largest}
        if not how.corrects():
            return columns, metrics
        low, high = how.bounds()
        weights = importance_weights(
            rows["old_logps"], rows[COLUMN], rows["mask"], cap=how.is_cap or math.inf, low=low, high=high,
            level=how.is_level,
        )  # fmt: skip
        inside = rows["mask"] > 0
        tokens = inside.sum(1)

        def by_row(x: Array) -> Array:
            return jnp.where(tokens > 0, jnp.where(inside, x, 0.0).sum(1) / tokens, jnp.nan)

        metrics |= {
            "sampling/importance_weight": by_row(weights),
            "sampling/masked": by_row((weights == 0).astype(jnp.float32)),
        }
        return columns | {"advantages": columns["advantages"] * weights}, metrics

    return run
