"""Importance weights by hand in float64: truncated, masked, by token and by completion."""

import math

import numpy as np
import pytest

from jaxtrain.ops.importance import importance_weights, logp_difference

MASK = np.array([[0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 0, 1, 0, 0]], "f")
HERE = MASK > 0
RATIOS = np.array([[1, 0.4, 1.5, 6, 1], [1, 1, 1, 1, 1], [0.9, 1, 3.0, 1, 1]])
SAMPLER = np.random.default_rng(0).normal(-2, 1, MASK.shape)
TRAINER = SAMPLER + np.log(RATIOS)


def computed(**how):
    dirty = [np.where(HERE, x, np.nan).astype("f") for x in (TRAINER, SAMPLER)]
    return np.asarray(importance_weights(*dirty, MASK, **how))


def test_a_cap_truncates_and_bounds_mask():
    np.testing.assert_allclose(computed(cap=2.0), np.where(HERE, np.minimum(RATIOS, 2.0), 0), rtol=1e-5)
    inside = HERE & (RATIOS >= 0.5) & (RATIOS <= 5)
    assert inside.sum() == 3 and HERE.sum() == 5
    np.testing.assert_allclose(computed(low=0.5, high=5.0), np.where(inside, RATIOS, 0), rtol=1e-5)
    both = computed(cap=2.0, low=0.5, high=5.0)
    np.testing.assert_allclose(both, np.where(inside, np.minimum(RATIOS, 2.0), 0), rtol=1e-5)


def test_a_completion_has_the_product_of_its_tokens_ratios():
    product = np.where(HERE, RATIOS, 1.0).prod(1, keepdims=True)  # 3.6, none, 2.7
    np.testing.assert_allclose(computed(cap=math.inf, level="sequence"), product * MASK, rtol=1e-5)
    masked = computed(low=0.0, high=3.0, level="sequence")
    np.testing.assert_allclose(masked, [[0] * 5, [0] * 5, [2.7, 0, 2.7, 0, 0]], rtol=1e-5)


def test_a_ratio_beyond_f32_is_capped_and_the_same_policy_has_weight_1():
    far = np.full((1, 2), 200.0, "f")
    assert importance_weights(far, -far, np.ones((1, 2)), cap=2.0).tolist() == [[2.0, 2.0]]
    assert importance_weights(far, -far, np.ones((1, 2)), high=5.0).tolist() == [[0.0, 0.0]]
    assert importance_weights(far, far, np.ones((1, 2)), cap=2.0).tolist() == [[1.0, 1.0]]
    with pytest.raises(ValueError, match="level=row: choose one of token, sequence"):
        importance_weights(far, far, far, level="row")


def test_the_difference_is_of_each_rows_tokens():
    dirty = [np.where(HERE, x, np.nan).astype("f") for x in (TRAINER, SAMPLER)]
    gap = np.abs(np.log(RATIOS))
    mean, largest = map(np.asarray, logp_difference(*dirty, MASK))
    np.testing.assert_allclose(mean, [gap[0][HERE[0]].mean(), np.nan, gap[2][HERE[2]].mean()], rtol=1e-4)
    np.testing.assert_allclose(largest, [np.log(6), np.nan, np.log(3)], rtol=1e-4)
