"""GDPO by hand in float64: rewards are normalised one by one, and their sum over the batch."""

import numpy as np

from jaxtrain.ops.decoupled_advantages import decoupled_advantages
from jaxtrain.ops.returns import GROUP_EPS

G = 3
REWARDS = np.array([[0, 1], [1, 1], [1, 0], [5, 2], [5, 4], [5, 9]], "f")
WEIGHTS = np.array([1.0, 0.5], "f")


def by_hand(rewards, weights):
    total = np.zeros(len(rewards))
    for k in range(rewards.shape[1]):
        for first in range(0, len(rewards), G):
            r = rewards[first : first + G, k].astype(float)
            here = ~np.isnan(r)
            if here.sum() > 1 and r[here].max() > r[here].min():
                a = (r - r[here].mean()) / (r[here].std(ddof=1) + GROUP_EPS)
                total[first : first + G] += weights[k] * np.where(here, a, 0.0)
    there = ~np.isnan(rewards).all(1)
    centred = np.where(there, total - total[there].mean(), 0.0)
    return centred / (total[there].std(ddof=1) + GROUP_EPS)


def test_each_reward_is_normalised_in_its_group_and_the_sum_over_the_batch():
    found, flat = decoupled_advantages(REWARDS, WEIGHTS, G)
    np.testing.assert_allclose(found, by_hand(REWARDS, WEIGHTS), rtol=1e-4, atol=1e-5)
    assert flat.tolist() == [0] * 6
    # (0, 1) and (1, 0) have the same sum, which the sum alone cannot tell apart where their spreads differ.
    uneven = np.array([[0, 1], [1, 0], [1, 1], [1, 0], [1, 0], [0, 1]], "f")
    found, _ = decoupled_advantages(uneven, np.ones(2, "f"), G)
    np.testing.assert_allclose(found, by_hand(uneven, np.ones(2)), rtol=1e-4, atol=1e-5)


def test_a_reward_that_does_not_apply_adds_nothing():
    some = REWARDS.copy()
    some[0, 0], some[2, 1], some[4] = np.nan, np.nan, np.nan
    found, flat = decoupled_advantages(some, WEIGHTS, G)
    np.testing.assert_allclose(found, by_hand(some, WEIGHTS), rtol=1e-4, atol=1e-5)
    assert found[4] == 0 and np.isfinite(found).all()
    # In the first group both rewards are now equal.
    assert flat.tolist() == [1, 1, 1, 0, 0, 0]


def test_equal_rewards_teach_nothing():
    found, flat = decoupled_advantages(np.ones((6, 2), "f"), WEIGHTS, G)
    assert not np.asarray(found).any() and np.asarray(flat).all()
