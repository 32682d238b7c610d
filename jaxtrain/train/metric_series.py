"""One metric of a run over its steps, from the lines of its metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]

FEWEST = 10  # lines of a metric that say how it ends
PART = 0.2  # of the lines: the end, and what is before it


def is_finite(value: Any) -> bool:
    """Whether a value of a line is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps i64[n], values f64[n]) of a metric, where it is finite."""
    points = [(row["step"], row[name]) for row in rows if is_finite(row.get(name))]
    return np.array([step for step, _ in points], np.int64), np.array([x for _, x in points], np.float64)


def ends(rows: Rows, name: str) -> tuple[float, float] | None:
    """(mean of a metric over the lines before its last fifth, as many, mean over the last fifth); None of few lines."""
    values = series(rows, name)[1]
    if len(values) < FEWEST:
        return None
    count = max(2, round(PART * len(values)))
    return float(np.mean(values[-2 * count : -count])), float(np.mean(values[-count:]))
