"""Win rates with confidence intervals, Bradley-Terry strengths and Elo ratings; NumPy alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.96  # standard normal deviations of a 95 % interval
RESAMPLES = 200
MEAN, SCALE = 1000.0, 400 / math.log(10)  # of Elo ratings
_ROUNDS, _TOLERANCE = 10_000, 1e-9  # of the fixed point


class Match(NamedTuple):
    """A comparison of two players' answers to a prompt: `value` 1 if the first is better, 0 the second, 0.5 a tie."""

    prompt: int
    first: int
    second: int
    value: float


class WinRate(NamedTuple):
    """A share of wins, ties as half, with Wilson's 95 % interval."""

    mean: float
    low: float
    high: float
    count: int


def win_rate(values: Sequence[float]) -> WinRate | None:
    """The win rate of values 0 to 1, one a prompt; None of none (Wilson 1927; conservative where ties are halves)."""
    n = len(values)
    if not n:
        return None
    p = sum(values) / n
    return WinRate(p, *interval(p, n), n)


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `n` > 0."""
    z = Z * Z / n
    middle = (share + z / 2) / (1 + z)
    half = Z * math.sqrt(share * (1 - share) / n + z / (4 * n)) / (1 + z)
    return max(0.0, middle - half), min(1.0, middle + half)


def interval_text(share: float | None, n: int | None, digits: int = 0) -> str:
    """The 95 % interval of a share of `n` in percent, and n; empty where one is not known."""
    if share is None or not n:
        return ""
    low, high = interval(share, n)
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f} %, n {n:,}"


def pairwise_win_rates(matches: Sequence[Match], players: int) -> list[list[WinRate | None]]:
    """[i][j]: the win rate of i against j; None where they were not compared."""
    values: list[list[list[float]]] = [[[] for _ in range(players)] for _ in range(players)]
    for one in matches:
        values[one.first][one.second].append(one.value)
        values[one.second][one.first].append(1 - one.value)
    return [[win_rate(each) for each in row] for row in values]


def win_counts(matches: Sequence[Match], players: int) -> np.ndarray:
    """f[M, M]: wins of i over j, ties as half."""
    wins = np.zeros((players, players))
    for one in matches:
        wins[one.first, one.second] += one.value
        wins[one.second, one.first] += 1 - one.value
    return wins


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Bradley-Terry strengths β f[M] of mean 0, P(i beats j) = σ(β_i − β_j): the maximum likelihood of wins f[M, M].

    The fixed point p_i ← Σ_j w_ij / Σ_j (w_ij + w_ji)/(p_i + p_j) (Hunter 2004, equation 3). Every pair that
    was compared gets one more tie, so that a player who never loses has a finite strength.
    """
    compared = (wins + wins.T) > 0
    wins = wins + 0.5 * compared
    total, p = wins + wins.T, np.ones(len(wins))
    for _ in range(_ROUNDS):
        shares = (total / (p[:, None] + p)).sum(1)
        new = np.where(shares > 0, wins.sum(1) / np.where(shares > 0, shares, 1), 1.0)
        new /= np.exp(np.log(new).mean())
        if np.abs(np.log(new / p)).max() < _TOLERANCE:
            break
        p = new
    return np.log(new)


def elo(matches: Sequence[Match], players: int, seed: int = 0) -> list[tuple[float, float, float]]:
    """Each player's Elo rating, of mean 1000, with a 95 % bootstrap interval over prompts: (rating, low, high)."""
    by_prompt: dict[int, list[Match]] = {}
    for one in matches:
        by_prompt.setdefault(one.prompt, []).append(one)
    tables = np.array([win_counts(each, players) for each in by_prompt.values()])
    draws = np.random.default_rng(seed).multinomial(len(tables), [1 / len(tables)] * len(tables), RESAMPLES)
    resampled = np.array([bradley_terry(np.tensordot(draw, tables, 1)) for draw in draws])
    low, high = np.quantile(MEAN + SCALE * resampled, (0.025, 0.975), axis=0)
    best = MEAN + SCALE * bradley_terry(tables.sum(0))
    return [(float(a), float(b), float(c)) for a, b, c in zip(best, low, high, strict=True)]
