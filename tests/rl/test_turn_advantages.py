"""Advantages of episodes by hand, in float64: turns with an environment's tokens between them."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.rl import advantages
from jaxtrain.rl.advantages import AdvantageConfig

# Two episodes. Of the first, places 1, 2 and 5, 6 are the policy's; of the second, cut off, places 2 and 4.
MASK = np.array([[0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 1, 0, 0, 0]], "f")
TURN_REWARDS = np.array([[0, 0, 0.5, 0, 0, 0, 1.0, 0], [0, 0, -0.25, 0, 0.75, 0, 0, 0]], "f")
SCORES = np.array([1.5 + 0.3, 0.5], "f")  # a function adds .3 to the first, 0 to the second
VALUES = np.array([[9, 0.2, 0.4, 9, 9, -0.1, 0.6, 9], [9, 9, 0.3, 9, 0.1, 0.8, 9, 9]], "f")
OLD = np.array([[9, -1.0, -0.5, 9, 9, -2.0, -0.2, 9], [9, 9, -0.7, 9, -1.1, 9, 9, 9]], "f")
REFERENCE = np.array([[9, -1.2, -0.5, 9, 9, -1.5, -0.4, 9], [9, 9, -0.9, 9, -1.0, 9, 9, 9]], "f")
ENDED, LENGTH = np.array([True, False]), np.array([8, 6], np.int32)
BETA = 0.1


def columns():
    rows = {
        "mask": MASK,
        "turn_rewards": TURN_REWARDS,
        "values": VALUES,
        "old_logps": OLD,
        "ref_logps": REFERENCE,
    }
    return {name: jnp.asarray(x) for name, x in rows.items()} | {"length": jnp.asarray(LENGTH)}


def test_gae_goes_over_turns_and_skips_the_environment_s_tokens():
    gamma, lam = 0.9, 0.8
    how = AdvantageConfig(gamma=gamma, lam=lam, bootstrap=True, whiten_advantages=False)
    found, metrics = advantages.gae_advantages(columns(), jnp.asarray(SCORES), jnp.asarray(ENDED), BETA, how)
    # The first episode, from its end: rewards of tokens are -β (log π - log ref), the turns', and .3 at the end.
    r = [-0.1 * 0.2, -0.1 * 0.0 + 0.5, -0.1 * -0.5, -0.1 * 0.2 + 1.0 + 0.3]
    v = [0.2, 0.4, -0.1, 0.6]
    a3 = r[3] - v[3]
    a2 = r[2] + gamma * v[3] - v[2] + gamma * lam * a3
    a1 = r[1] + gamma * v[2] - v[1] + gamma * lam * a2
    a0 = r[0] + gamma * v[1] - v[0] + gamma * lam * a1
    # The second was cut off: the value of its last state, .8, comes after it.
    s = [-0.1 * 0.2 - 0.25, -0.1 * -0.1 + 0.75]
    b1 = s[1] + gamma * 0.8 - 0.1
    b0 = s[0] + gamma * 0.1 - 0.3 + gamma * lam * b1
    wanted = np.array([[0, a0, a1, 0, 0, a2, a3, 0], [0, 0, b0, 0, b1, 0, 0, 0]])
    np.testing.assert_allclose(found["advantages"], wanted, atol=1e-6)
    np.testing.assert_allclose(found["returns"], np.where(MASK > 0, wanted + VALUES, 0), atol=1e-6)
    np.testing.assert_allclose(metrics["objective/scores"], SCORES)


@pytest.mark.parametrize("garbage", [np.nan, 1e30])
def test_what_stands_at_the_environment_s_tokens_never_enters(garbage):
    how = AdvantageConfig(whiten_rewards=True)
    rows, ended = columns(), jnp.asarray([True, True])
    dirty = {
        name: jnp.where(MASK > 0, x, garbage) if name in ("values", "old_logps", "ref_logps") else x
        for name, x in rows.items()
    }
    one, _ = advantages.gae_advantages(rows, jnp.asarray(SCORES), ended, BETA, how)
    other, _ = advantages.gae_advantages(dirty, jnp.asarray(SCORES), ended, BETA, how)
    assert all(np.array_equal(one[name], other[name]) for name in ("advantages", "returns"))


def test_groups_compare_whole_episodes():
    """Rewards of turns and of functions are one score; every token of the policy's has its episode's advantage."""
    how = AdvantageConfig(group=2, baseline="mean", scale="std")
    found, _ = advantages.group_advantages(columns(), jnp.asarray(SCORES), jnp.asarray(ENDED), 0.0, how)
    mean = (1.8 + 0.5) / 2
    std = np.sqrt(((1.8 - mean) ** 2 + (0.5 - mean) ** 2) / 1)
    by_episode = np.array([1.8 - mean, 0.5 - mean]) / (std + 1e-4)
    np.testing.assert_allclose(found["advantages"], MASK * by_episode[:, None], atol=1e-6)


def test_without_a_baseline_a_token_has_the_rewards_from_its_turn_on():
    how = AdvantageConfig(baseline="none", whiten_advantages=False)
    found, _ = advantages.group_advantages(columns(), jnp.asarray(SCORES), jnp.asarray(ENDED), 0.0, how)
    wanted = [[0, 1.8, 1.8, 0, 0, 1.3, 1.3, 0], [0, 0, 0.5, 0, 0.75, 0, 0, 0]]
    np.testing.assert_allclose(found["advantages"], wanted, atol=1e-6)


def test_a_completion_without_turns_has_its_score_at_the_end_as_ever():
    rows = {name: x for name, x in columns().items() if name != "turn_rewards"}
    zero = columns() | {"turn_rewards": jnp.zeros_like(TURN_REWARDS)}
    how = AdvantageConfig(gamma=0.9)
    one, other = (
        advantages.gae_advantages(each, jnp.asarray(SCORES), jnp.asarray(ENDED), BETA, how)[0]
        for each in (rows, zero)
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)
