"""GDPO in a rollout: which rewards it has, with which weights, and what the score has beyond them."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError, Scores
from jaxtrain.ops.decoupled_advantages import decoupled_advantages
from jaxtrain.rl import decoupled_rewards
from jaxtrain.rl.advantages import AdvantageConfig
from jaxtrain.rl.config import Episodes
from jaxtrain.rl.scoring import ScoredBatch

WEIGHTS = {"a": 2.0, "b": 0.5}
REWARDS = np.array([[0, 1], [1, 1], [1, np.nan], [5, 2]], "f")


def config_of(env="", loss=None, **scores):
    resolved = {"baseline": "mean", "scale": "std", **(loss or {})}
    return types.SimpleNamespace(
        episodes=Episodes(env=env),
        scores=Scores(**scores),
        loss=types.SimpleNamespace(resolved=lambda: resolved),
    )


def test_the_weights_are_those_of_the_functions_and_an_environment_has_one():
    assert decoupled_rewards.weights_of(config_of(reward="gold*3,correct")) == {"gold": 3.0, "correct": 1.0}
    both = decoupled_rewards.weights_of(config_of(env="tinytown:search", reward="correct*0.5"))
    assert both == {"environment": 1.0, "correct": 0.5}
    model = decoupled_rewards.weights_of(config_of(env="tinytown:search", reward_model="runs/rm"))
    assert model == {"environment": 1.0, "model": 1.0}
    with pytest.raises(ConfigError, match="it normalises several rewards one by one, and there is one"):
        decoupled_rewards.weights_of(config_of(reward="gold"))
    with pytest.raises(ConfigError, match="--baseline=others, --scale=std: normalize_then_sum has"):
        decoupled_rewards.advantages_of(config_of(reward="gold,correct", loss={"baseline": "others"}))


def test_rows_get_what_each_function_returned():
    stats = {f"rewards/{name}/mean": column for name, column in zip("ab", REWARDS.T, strict=True)}
    batch = ScoredBatch(
        {"mask": np.ones((4, 2))}, np.zeros(4), np.ones(4, bool), stats, np.empty((4, 2), object)
    )
    sample = decoupled_rewards.with_rewards(WEIGHTS)(None, lambda *args: batch)
    np.testing.assert_array_equal(sample(None, 0).rows["rewards"], REWARDS)


def test_penalties_and_the_kl_are_one_more_reward():
    """The score less the weighted rewards is what --truncated took off, the KL penalty beside it."""
    mask = np.array([[0, 1, 1]] * 3 + [[0, 1, 0]], "f")
    added = np.array([0.5, 2.5, 2.0, 11.0])
    penalty = np.array([0, -1, 0, 0])
    old, ref = np.random.default_rng(1).normal(size=(2, 4, 3)).astype("f")
    rows = {"mask": mask, "old_logps": old, "ref_logps": ref, "rewards": REWARDS}
    rows = {name: jnp.asarray(x) for name, x in rows.items()}
    kl = (np.where(mask > 0, old - ref, 0)).sum(1)
    advantages = decoupled_rewards.decoupled_group_advantages(WEIGHTS)
    columns, metrics = advantages(
        rows, jnp.asarray(added + penalty, jnp.float32), None, 0.3, how=AdvantageConfig(group=2)
    )
    all_three = np.concatenate([REWARDS, (penalty - 0.3 * kl)[:, None]], 1).astype("f")
    wanted, flat = decoupled_advantages(all_three, np.array([2.0, 0.5, 1.0], "f"), 2)
    np.testing.assert_allclose(
        columns["advantages"], np.asarray(wanted)[:, None] * mask, rtol=1e-4, atol=1e-5
    )
    assert metrics["frac_reward_zero_std"].tolist() == np.asarray(flat).tolist()


def test_rounding_of_the_sum_is_no_reward():
    values = np.array([[0.1, 0.3], [0.7, 0.2], [0.1, 0.3], [0.1, 0.3]], "f")
    weights = {"a": 1.1, "b": 0.7}
    scores = (values.astype(float) * [1.1, 0.7]).sum(1).astype("f") + np.array([0, 1e-7, -1e-7, 1e-7], "f")
    rows = {"mask": jnp.ones((4, 1)), "old_logps": jnp.zeros((4, 1)), "rewards": jnp.asarray(values)}
    advantages = decoupled_rewards.decoupled_group_advantages(weights)
    columns, metrics = advantages(rows, jnp.asarray(scores), None, 0.0, how=AdvantageConfig(group=2))
    assert metrics["frac_reward_zero_std"].tolist() == [0, 0, 1, 1]
    assert columns["advantages"][2, 0] == columns["advantages"][3, 0]
