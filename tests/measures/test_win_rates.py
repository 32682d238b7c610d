"""Win rates and strengths: values by hand."""

import math

import numpy as np
import pytest

from jaxtrain.measures import win_rates
from jaxtrain.measures.win_rates import Match


def test_a_rate_and_wilson_s_interval_by_hand():
    found = win_rates.win_rate([1.0] * 6 + [0.5] * 4 + [0.0] * 10)
    z = 1.96**2 / 20
    half = 1.96 * math.sqrt(0.4 * 0.6 / 20 + z / 80) / (1 + z)
    middle = (0.4 + z / 2) / (1 + z)
    assert found.mean == pytest.approx(0.4) and found.count == 20
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))
    assert (round(found.low, 3), round(found.high, 3)) == (0.219, 0.613)
    whole = win_rates.win_rate([1.0] * 9)
    assert whole.high == pytest.approx(1) and 0.6 < whole.low < 0.75, "sure of nothing after nine wins"
    assert win_rates.win_rate([]) is None


def test_who_met_whom():
    matches = [Match(0, 0, 1, 1.0), Match(1, 0, 1, 0.5), Match(0, 2, 0, 0.0)]
    found = win_rates.pairwise_win_rates(matches, 4)
    assert found[0][1].mean == 0.75 and found[1][0].mean == 0.25 and found[0][2].mean == 1.0
    assert found[1][2] is None and found[3] == [None] * 4 and found[0][0] is None
    assert win_rates.win_counts(matches, 4)[:3, :3].tolist() == [[0, 1.5, 1], [0.5, 0, 0], [0, 0, 0]]


def test_bradley_terry_of_two_is_the_log_odds():
    beta = win_rates.bradley_terry(np.array([[0.0, 7.5], [1.5, 0.0]]))
    assert beta[0] - beta[1] == pytest.approx(math.log(8 / 2)) and beta.sum() == pytest.approx(0)


def test_bradley_terry_is_where_the_likelihood_has_no_slope():
    rng = np.random.default_rng(0)
    won = rng.integers(0, 9, (5, 5)).astype(float)
    np.fill_diagonal(won, 0)
    beta = win_rates.bradley_terry(won)
    with_ties = won + 0.5 * (1 - np.eye(5))
    expected = (with_ties + with_ties.T) / (1 + np.exp(beta - beta[:, None]))
    assert np.allclose(with_ties.sum(1), expected.sum(1), atol=1e-5), "wins are as many as expected"


def test_one_who_never_loses_has_a_number_and_one_who_never_plays_the_mean():
    beta = win_rates.bradley_terry(np.array([[0, 5, 0], [0, 0, 0], [0, 0, 0]], float))
    assert np.isfinite(beta).all() and beta[0] > beta[2] > beta[1]


def test_elo_with_intervals_over_prompts():
    matches = [Match(n, 0, 1, float(n % 4 != 0)) for n in range(100)]
    (best, low, high), (other, _, _) = win_rates.elo(matches, 2)
    assert best - other == pytest.approx(400 * math.log10(75.5 / 25.5)) and best + other == pytest.approx(
        2000
    )
    assert low < best < high and 30 < high - low < 120
    assert win_rates.elo(matches, 2) == win_rates.elo(matches, 2)
