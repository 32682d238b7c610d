"""Merges of tensors, by hand."""

import numpy as np
import pytest

from jaxtrain.ops import merging


def f32(*values):
    return np.array(values, np.float32)


def test_slerp_goes_along_the_arc():
    a, b = f32(1, 0), f32(0, 1)
    root = np.sqrt(0.5)
    np.testing.assert_allclose(merging.slerp(a, b, 0.5), [root, root], rtol=1e-6)
    np.testing.assert_allclose(merging.slerp(a, b, 1 / 3), [np.cos(np.pi / 6), 0.5], rtol=1e-6)
    # Lengths are interpolated by the same coefficients: 2 sin 60° and 4 sin 30°.
    np.testing.assert_allclose(merging.slerp(2 * a, 4 * b, 1 / 3), [2 * np.sqrt(0.75), 2], rtol=1e-6)
    # At 60°: sin(45°) / sin(60°) and sin(15°) / sin(60°).
    c = f32(0.5, np.sqrt(0.75))
    one, other = (np.sin(np.deg2rad(x)) / np.sin(np.pi / 3) for x in (45, 15))
    np.testing.assert_allclose(merging.slerp(a, c, 0.25), one * a + other * c, rtol=1e-5)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_slerp_ends_at_its_models(t):
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(merging.slerp(a, b, t), b if t else a, atol=1e-6)


@pytest.mark.parametrize("b", [f32(2, 4), f32(-1, -2), f32(0, 0)], ids=["parallel", "opposite", "zero"])
def test_slerp_is_a_line_where_there_is_no_arc(b):
    np.testing.assert_allclose(merging.slerp(f32(1, 2), b, 0.25), 0.75 * f32(1, 2) + 0.25 * b, rtol=1e-6)


def test_trimming_leaves_the_largest_entries():
    x = f32(0.1, -3, 2, 0.5, -0.2).reshape(5, 1)
    np.testing.assert_array_equal(merging.trimmed(x, 0.4)[:, 0], f32(0, -3, 2, 0, 0))
    np.testing.assert_array_equal(merging.trimmed(x, 0.41)[:, 0], f32(0, -3, 2, 0.5, 0))
    np.testing.assert_array_equal(merging.trimmed(x, 1.0), x)
    np.testing.assert_array_equal(merging.trimmed(f32(1, -1, 0), 0.3), f32(1, -1, 0))


def test_ties_elects_a_sign_and_takes_the_mean_of_those_that_have_it():
    vectors = np.stack([f32(3, -2, 0.1, 4), f32(1, 5, 0.2, -4), f32(-5, 4, 0.0, 0.1)])
    weights = f32(1, 1, 1)
    # 1: 3 + 1 - 5 < 0, so -5; 2: -2 + 5 + 4 > 0, so the mean of 5 and 4; 4: 4 - 4 + 0.1 > 0: the mean of 4 and 0.1.
    np.testing.assert_allclose(merging.ties(vectors, weights, 1.0), f32(-5, 4.5, 0.15, 2.05), rtol=1e-6)
    # The two largest of each: (3, 0, 0, 4), (0, 5, 0, -4), (-5, 4, 0, 0).
    np.testing.assert_allclose(merging.ties(vectors, weights, 0.5), f32(-5, 4.5, 0, 0), rtol=1e-6)
    # Weights elect, and weigh the mean.
    np.testing.assert_allclose(merging.ties(vectors, f32(4, 1, 1), 0.5), f32(3, 4.5, 0, 4), rtol=1e-6)
    np.testing.assert_allclose(merging.ties(vectors, f32(1, 3, 1), 1.0)[1], (3 * 5 + 4) / 4, rtol=1e-6)


def test_ties_of_one_vector_is_what_is_left_of_it():
    x = f32(0.1, -3, 2, 0.5)
    np.testing.assert_array_equal(merging.ties(x[None], f32(0.7), 0.5), merging.trimmed(x, 0.5))
