"""The rule on over-optimisation, in float64 on curves whose turn is known, and on noise, which has none."""

import math

import numpy as np
import pytest

from jaxtrain.rl import overoptimisation
from jaxtrain.rl.overoptimisation import GOLD, TRAINED, WATCHED, turn_of, turning_point

N = 60
T = np.arange(N) / N
RISING = 2 * (1 - np.exp(-4 * T))  # a trained reward
PEAK = np.where(T < 0.5, 0.4 + 3 * T, 1.9 - 1.2 * (T - 0.5))  # rises to 1.9 at point 30, then falls to 1.3

TURN = turning_point(range(N), RISING, PEAK)


def noisy(x, seed, size=0.05):
    return x + size * np.random.default_rng(seed).normal(size=len(x))


def test_a_peak_is_found_where_it_is():
    """Without noise the windows are means that can be written down: 43 to 48 points have windows of 8."""
    turn = turning_point(range(N), RISING, PEAK)
    means = [PEAK[i : i + 8].mean() for i in range(TURN.seen + 1 - 8 + 1)]
    best = int(np.argmax(means))
    assert turn.step == best + 4 and abs(turn.step - 31) <= 1 and 42 <= turn.seen < 48
    assert turn.best == pytest.approx(means[best], abs=1e-12) and turn.last == pytest.approx(
        means[-1], abs=1e-12
    )
    assert turn.error == pytest.approx(_error(PEAK[: turn.seen + 1], 8), abs=1e-12)
    assert turn.best - turn.last > overoptimisation.CERTAIN * turn.error
    slow = np.where(T < 0.4, 0.4 + 3 * T, 1.6 - 0.5 * (T - 0.4))
    strict, report = (
        turning_point(range(N), RISING, noisy(slow, 3), x)
        for x in (overoptimisation.CERTAIN, overoptimisation.LIKELY)
    )
    assert report.seen < strict.seen, "a report needs less"


def _error(x, width):
    """The standard error as the docstring has it, written plainly."""
    spreads = []
    for span in (1, 2, 4):
        means = [np.mean(x[i : i + span]) for i in range(0, len(x) // span * span, span)]
        differences = [a - 2 * b + c for a, b, c in zip(means, means[1:], means[2:], strict=False)]
        spreads.append(math.sqrt(span * np.mean(np.square(differences)) / 6))
    return max(spreads) * math.sqrt(2 / width)


def test_real_over_optimisation_is_seen_through_noise():
    turns = [turning_point(range(N), noisy(RISING, i), noisy(PEAK, 100 + i)) for i in range(50)]
    assert all(turns)
    assert abs(np.median([turn.step for turn in turns]) - 31) <= 3
    assert np.mean([turn.seen for turn in turns]) < 55
    late = np.where(T < 0.7, 3 * T, 2.1 - 4 * (T - 0.7))
    assert (
        sum(turning_point(range(N), noisy(RISING, i), noisy(late, 200 + i)) is not None for i in range(20))
        == 20
    )
    fall = 1 - T  # from the first step on
    assert all(turning_point(range(N), noisy(RISING, i), noisy(fall, 300 + i)) for i in range(20))


@pytest.mark.parametrize("watched", ["flat", "rising", "heavy tails", "both flat"])
def test_noise_alone_does_not_fire(watched):
    """1,000 series of 60 iterations in all, of which fewer than 1 % may fire."""
    rng, fired = np.random.default_rng(7), 0
    for _ in range(250):
        noise = rng.standard_t(3, N) if watched == "heavy tails" else rng.normal(size=N)
        trained = (0 if watched == "both flat" else RISING) + 0.1 * rng.normal(size=N)
        fired += (
            turning_point(range(N), trained, (RISING if watched == "rising" else 0) + 0.1 * noise) is not None
        )
    assert fired <= 2


def test_neighbours_that_are_alike_are_no_trend():
    """Noise that is correlated from one iteration to the next (φ = .3) is estimated from means over several of them."""
    rng, fired = np.random.default_rng(3), 0
    for _ in range(200):
        noise = rng.normal(size=N)
        for t in range(1, N):
            noise[t] = 0.3 * noise[t - 1] + math.sqrt(1 - 0.3**2) * noise[t]
        fired += turning_point(range(N), noisy(RISING, 1, 0.1), 0.1 * noise) is not None
    assert fired <= 10


@pytest.mark.parametrize("trained", [RISING[::-1], -RISING, PEAK])
def test_a_reward_that_falls_along_is_not_exploited(trained):
    assert turning_point(range(N), trained, PEAK) is None


def test_a_constant_reward_that_does_not_see_the_fall_is():
    assert turning_point(range(N), np.full(N, 2.0), PEAK) == TURN


@pytest.mark.parametrize("level", [0.0, 0.1, -3.0, 1e9])
def test_a_constant_has_no_turn_whatever_its_rounding(level):
    assert turning_point(range(N), RISING, np.full(N, level)) is None


def test_a_dip_that_is_small_against_the_gain_is_none():
    dip = np.where(
        T < 0.5, 20 * T, 10 - 0.9 * np.minimum(1, 4 * (T - 0.5))
    )  # certain, and 9 % of what it gained
    assert turning_point(range(N), RISING, dip) is None
    assert turning_point(range(N), RISING, np.where(T < 0.5, 20 * T, 10 - 2.5 * np.minimum(1, 4 * (T - 0.5))))


def test_what_a_prefix_decides_stays_and_a_longer_series_only_adds_to_it():
    """A killed run has the prefix alone, and comes to the same decision at the same point."""
    trained, watched = noisy(RISING, 1), noisy(PEAK, 2)
    turn = turning_point(range(N), trained, watched)
    assert turning_point(range(turn.seen), trained[: turn.seen], watched[: turn.seen]) is None
    for end in (turn.seen + 1, turn.seen + 5):
        assert turning_point(range(end), trained[:end], watched[:end]) == turn
    huge = np.concatenate([watched, [1e12]])
    assert turning_point(range(N + 1), np.append(trained, 1e12), huge) == turn


def test_scale_and_place_do_not_matter():
    turn = turning_point(range(N), RISING, noisy(PEAK, 4))
    other = turning_point(range(0, 8 * N, 8), RISING * 1e-3 + 5, noisy(PEAK, 4) * 1e4 - 7)
    assert (other.step, other.seen) == (8 * turn.step, 8 * turn.seen)
    assert other.best == pytest.approx(turn.best * 1e4 - 7)


def test_points_without_a_number_are_left_out():
    turn = turning_point(range(N), RISING, PEAK)
    gaps = [None, math.nan, math.inf]
    watched = [value for i in range(N) for value in (PEAK[i], gaps[i % 3])]
    assert turning_point(
        np.repeat(range(N), 2), np.repeat(RISING, 2), [math.nan if x is None else x for x in watched]
    ) == turn  # fmt: skip
    assert turning_point([], [], []) is None and turning_point([1], [2.0], [3.0]) is None


def test_a_long_run_is_judged_by_windows_of_25_points():
    n = 5000
    t = np.arange(n) / n
    peak = np.where(t < 0.5, 2 * t, 1 - 0.5 * (t - 0.5))
    turn = turning_point(range(n), noisy(2 * t, 1), noisy(peak, 2))
    assert abs(turn.step - 2500) < 150 and turn.seen < 4000


def test_lines_of_metrics_have_gold_or_a_watched_reward_or_neither():
    rows = [{"step": i + 1, TRAINED: RISING[i], WATCHED: RISING[i], GOLD: PEAK[i]} for i in range(N)]
    assert overoptimisation.watched_metrics(rows) == [WATCHED, GOLD]
    assert (
        turn_of(rows) is None
        and turn_of(rows, name=GOLD, certain=overoptimisation.CERTAIN).step == TURN.step + 1
    )
    gold = [{name: x for name, x in row.items() if name != WATCHED} for row in rows]
    assert (
        turn_of([{"step": 1, "eval/scores": 1.0}, *gold, {"step": 9, TRAINED: None, GOLD: 1.0}]).step
        == TURN.step + 1
    )
    assert overoptimisation.watched_metrics([{"step": 1, TRAINED: 1.0, GOLD: None}]) == []
    assert turn_of([{"step": 1, TRAINED: 1.0}]) is None


def test_lines_of_one_iteration_count_as_one():
    lines = [
        {"step": 4 * i + j + 1, TRAINED: RISING[i] + j, GOLD: PEAK[i] - j} for i in range(N) for j in range(4)
    ]
    turn = turn_of(lines, updates=4)
    assert turn.step == 4 * (TURN.step + 1) and turn.best == pytest.approx(
        turning_point(range(N), RISING, PEAK).best - 1.5
    )
