"""Reward over-optimisation: the step at which a reward that is not trained on turns, while the trained one does not.

Gao et al. (arXiv:2210.10760): the score of a reward model rises on, and what it stands for falls. NumPy alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxtrain.train.metric_series import Rows, is_finite

TRAINED, WATCHED, GOLD = "objective/scores", "objective/watch_reward", "judge/gold"  # metrics by completion

CERTAIN = 4.5  # standard errors of a fall at which training may stop
LIKELY = 3.0  # of one that a report names
SHARE = 0.1  # of what the watched reward had gained, which a fall has at least
IN_ROW = 3  # points in a row at which both hold
NARROW, WIDE, WINDOWS = 3, 25, 6  # points of a window; windows in a series, until they have WIDE points
SPANS = (1, 2, 4)  # points whose means are compared to estimate noise: neighbours may be alike
FEWEST = 5  # means from which it is estimated
ROUNDING = 1e-9  # of the largest value


class Turn(NamedTuple):
    """Where the watched reward was best, and where its fall was certain."""

    step: int  # the middle of the best window
    seen: int
    best: float  # means over a window
    last: float
    error: float  # standard error of their difference

    def certainty(self) -> str:
        """The size of the fall in words."""
        return (
            f"{(self.best - self.last) / self.error:.1f} standard errors" if self.error else "no noise at all"
        )


def turning_point(
    steps: Sequence[int], trained: Sequence[float], watched: Sequence[float], certain: float = CERTAIN
) -> Turn | None:
    """The turn of a watched reward, None without one; what a prefix of the series decides stays, however it goes on.

    Both are smoothed by a trailing mean over a window of a sixth of the points, 3 to 25. The watched reward has turned
    where its mean is more than `certain` standard errors below its best one before, and by a SHARE of its gain until
    then, while the trained reward's mean has not fallen by a standard error since, at IN_ROW points in a row. Noise is
    estimated from second differences of the series and of means over SPANS of it, which no trend enters. A point where
    either is not finite is left out.
    """
    values = np.array([trained, watched], np.float64).reshape(2, -1)
    there = np.isfinite(values).all(0)
    at, (trained, watched) = np.asarray(steps)[there], values[:, there]
    size = len(at)
    noise = _noise(trained), _noise(watched)
    widths = np.clip(-(-np.arange(size + 1) // WINDOWS), NARROW, WIDE)
    in_row = 0
    for width in np.unique(widths):
        counts = np.flatnonzero(widths == width)
        counts = counts[counts >= 4 * width]
        if not counts.size:
            continue
        fallen, best, levels, error = _fallen(trained, watched, noise, counts, int(width), certain)
        for i, count in enumerate(counts):
            in_row = in_row + 1 if fallen[i] else 0
            if in_row == IN_ROW:
                return Turn(
                    int(at[best[i] + width // 2]), int(at[count - 1]), float(levels[best[i]]),
                    float(levels[count - width]), float(error[i]),
                )  # fmt: skip
    return None


def _fallen(
    trained: np.ndarray,
    watched: np.ndarray,
    noise: tuple[np.ndarray, np.ndarray],
    counts: np.ndarray,
    width: int,
    certain: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(whether the first `counts` points have fallen, the first point of the best window, means, standard errors)."""
    score, level = _means(trained, width), _means(watched, width)
    now, before = counts - width, counts - 2 * width
    best = _best_so_far(level)[before]
    scale = math.sqrt(2 / width)
    error, tolerance = noise[1][counts] * scale, noise[0][counts] * scale
    fall, gain = level[best] - level[now], np.maximum(level[best] - level[0], 0.0)
    fallen = (fall > certain * error) & (fall > SHARE * gain) & (fall > _rounding(watched)[counts - 1])
    held = score[now] - score[best] >= -tolerance - _rounding(trained)[counts - 1]
    return fallen & held, best, level, error


def _best_so_far(level: np.ndarray) -> np.ndarray:
    """i64[n]: where the largest value up to each place is, the first one of equals."""
    highest = np.maximum.accumulate(level)
    new = np.concatenate([[True], highest[1:] > highest[:-1]])
    return np.maximum.accumulate(np.where(new, np.arange(len(level)), 0))


def _rounding(x: np.ndarray) -> np.ndarray:
    """f64[n]: a difference of means that the arithmetic alone may make, by the points up to each."""
    return ROUNDING * np.maximum.accumulate(np.abs(x))


def _means(x: np.ndarray, width: int) -> np.ndarray:
    """f64[n - width + 1]: the mean of `width` points from each on."""
    total = np.concatenate([[0.0], np.cumsum(x)])
    return (total[width:] - total[:-width]) / width


def _noise(x: np.ndarray) -> np.ndarray:
    """f64[n + 1]: the standard deviation of a point's noise, by the first k points; infinite where k is too few."""
    result = np.full(len(x) + 1, math.inf)
    for span in SPANS:
        blocks = x[: len(x) // span * span].reshape(-1, span).mean(1)
        if len(blocks) < FEWEST:
            continue
        squares = np.cumsum(np.diff(blocks, 2) ** 2) / np.arange(1, len(blocks) - 1)
        spread = np.sqrt(span * squares / 6)  # a second difference of noise has 6 times its variance
        for_prefix = np.arange(len(x) + 1) // span - 3  # the last difference that a prefix has
        known = for_prefix >= FEWEST - 3
        estimate = spread[np.clip(for_prefix, 0, None)]
        result = np.where(known, np.where(np.isinf(result), estimate, np.maximum(result, estimate)), result)
    return result


def watched_metrics(rows: Rows) -> list[str]:
    """The metrics that the trained reward is compared with: --watch_reward, and a world's gold."""
    return [
        name
        for name in (WATCHED, GOLD)
        if any(is_finite(row.get(name)) and is_finite(row.get(TRAINED)) for row in rows)
    ]


def turn_of(rows: Rows, updates: int = 1, name: str = "", certain: float = LIKELY) -> Turn | None:
    """The turn of a metric in the lines of a metrics.jsonl: of `name`, else of the first of `watched_metrics`.

    `certain` is turning_point's, lower, since a report only names it. Lines of an iteration of `updates` steps are of
    the same completions, and count as one.
    """
    name = name or next(iter(watched_metrics(rows)), "")
    iterations: dict[int, list[tuple[float, ...]]] = {}
    for row in rows:
        if is_finite(row.get(name)) and is_finite(row.get(TRAINED)):
            point = (row["step"], row[TRAINED], row[name])
            iterations.setdefault((row["step"] - 1) // updates, []).append(point)
    means = np.array([np.mean(points, 0) for points in iterations.values()]).reshape(-1, 3)
    steps = [points[-1][0] for points in iterations.values()]
    return turning_point(steps, means[:, 1], means[:, 2], certain)
