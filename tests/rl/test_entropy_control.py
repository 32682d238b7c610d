"""The coefficient of the entropy bonus follows the entropy, by hand."""

import numpy as np
import pytest

from jaxtrain.rl.entropy_control import EntropyControl, controlled
from jaxtrain.rl.rollout_store import Rollout

MASK = np.array([[0, 1, 1], [1, 0, 0]], "f")


def rollout(entropy, coef=None):
    logps = np.where(MASK > 0, -entropy * np.array([[0, 0.5, 1.5], [1, 0, 0]]), np.nan).astype("f")
    return Rollout(0, 0, 0, 0.1, {"mask": MASK, "old_logps": logps}, 0, 0.1, coef, coef)


def test_the_coefficient_rises_below_the_target_and_falls_above_where_there_is_no_bonus():
    control = EntropyControl(0.01, target=0.5, step=0.004)
    low = controlled(control, rollout(0.3))
    assert (low.entropy_coef, low.next_entropy_coef) == pytest.approx((0.01, 0.014))
    assert low.columns["entropy_coef"].tolist() == pytest.approx([0.01, 0.01])
    assert low.columns["stats/policy/entropy_coef"].tolist() == pytest.approx([0.01, 0.01])
    following = low.following()
    assert following.entropy_coef == low.next_entropy_coef and following.columns == {}
    high = controlled(control, rollout(0.7, coef=0.003))
    assert not high.columns["entropy_coef"].any() and high.next_entropy_coef == 0.0
    assert controlled(control, rollout(0.5, coef=0.02)).next_entropy_coef == pytest.approx(0.02)


def test_without_a_target_nothing_is_there():
    one = rollout(0.3)
    assert controlled(EntropyControl(0.01), one) is one


def test_a_rollout_without_tokens_leaves_the_coefficient():
    empty = rollout(0.3)
    empty.columns["mask"] = np.zeros_like(MASK)
    assert controlled(EntropyControl(0.01, 0.5), empty).next_entropy_coef == 0.01
