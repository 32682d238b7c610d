"""GDPO: the group's advantages of each reward function by itself (--multi_objective_aggregation=normalize_then_sum)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxtrain.config import ConfigError
from jaxtrain.ops.decoupled_advantages import decoupled_advantages
from jaxtrain.rewards import functions
from jaxtrain.rl import advantages, flat_groups, rollouts, samplers
from jaxtrain.rl.advantages import AdvantageConfig
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.rl.episode_rows import PREFIX
from jaxtrain.rl.scoring import ScoredBatch

Columns = advantages.Columns
COLUMN = "rewards"  # f32[R, K] of a rollout's rows: what each function returned


def weights_of(cfg: WatchedStageConfig) -> dict[str, float]:
    """The weight of each reward by its name in the metrics, the environment's among them.

    Raises ConfigError unless there are at least two.
    """
    weights = {PREFIX: 1.0} if cfg.episodes.env else {}
    if cfg.scores.reward:
        reward = functions.resolve(cfg.scores.reward)
        weights |= {
            name: one.weight
            for name, one in zip(functions.metric_names(reward.functions), reward.functions, strict=True)
        }
    elif cfg.scores.reward_model:
        weights |= {"model": 1.0}
    if len(weights) < 2:
        raise ConfigError(
            "--multi_objective_aggregation=normalize_then_sum: it normalises several rewards one by one, and there is "
            "one: name more in --reward, or leave it out"
        )
    return weights


def advantages_of(cfg: Any) -> tuple[Callable[..., tuple[dict, dict]], samplers.Wrapper]:
    """(a function like rl.advantages.group_advantages, what adds the column to rollouts that it reads).

    Raises ConfigError unless there are at least two rewards and group means.
    """
    weights, loss = weights_of(cfg), cfg.loss.resolved()
    if (loss["baseline"], loss["scale"]) != ("mean", "std"):
        raise ConfigError(
            f"--baseline={loss['baseline']}, --scale={loss['scale']}: normalize_then_sum has the group's mean and its "
            "standard deviation; leave them out"
        )
    return decoupled_group_advantages(weights), with_rewards(weights)


def with_rewards(weights: Mapping[str, float]) -> samplers.Wrapper:
    """A wrapper of sample functions: their rows get the column COLUMN, from what is reported of each function."""

    def wrapped(_: rollouts.RolloutConfig, sample: flat_groups.Sample) -> flat_groups.Sample:
        def run(*args: Any) -> ScoredBatch:
            batch = sample(*args)
            columns = np.stack([batch.stats[f"rewards/{name}/mean"] for name in weights], 1)
            return batch._replace(rows=batch.rows | {COLUMN: columns.astype(np.float32)})

        return run

    return wrapped


def decoupled_group_advantages(weights: Mapping[str, float]) -> Callable[..., tuple[dict, dict]]:
    """A function like rl.advantages.group_advantages, of rows with the column COLUMN.

    What the score has beyond the weighted rewards, as the penalties of --truncated and --overlong_buffer and the KL
    penalty, is one more reward of weight 1.
    """
    own = jnp.array([*weights.values(), 1.0], jnp.float32)

    def run(
        rows: Columns, scores: Array, ended: Array, kl_coef: Array | float, how: AdvantageConfig
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        metrics = advantages.completion_metrics(rows, scores, kl_coef)
        rewards = rows[COLUMN]
        added = jnp.where(jnp.isnan(rewards), 0.0, rewards * own[:-1]).sum(1)
        penalty = metrics.get("objective/non_score_reward", jnp.zeros_like(scores))
        # A score is that sum in f32 again: what is left of rounding is no reward.
        rest = scores - added
        rest = jnp.where(jnp.abs(rest) <= 1e-5 * (1.0 + jnp.abs(scores)), 0.0, rest) + penalty
        total, flat = decoupled_advantages(jnp.concatenate([rewards, rest[:, None]], 1), own, how.group)
        by_token = jnp.where(rows["mask"] > 0, total[:, None], 0.0)
        return {"advantages": by_token}, {**metrics, "frac_reward_zero_std": flat}

    return run
