"""What the seeds of an experiment say of a paper's claim: reproduced, not reproduced, or inconclusive."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
SEEDS = 3  # fewer decide nothing
SHARE = 2 / 3  # of the seeds in which a criterion has to hold
# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond them the normal distribution's.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

T = TypeVar("T")
Result = Mapping[str, Any]  # what an experiment measures on a seed


class Paper(NamedTuple):
    """A claim of a paper and its test at small size; the criterion is fixed before any seed is run."""

    name: str  # of the experiment, as ./launch/run papers.NAME
    title: str
    source: str  # authors, year, arXiv number
    figure: str  # the figure, table or section
    claim: str
    published: str  # its numbers; those that were not read again are marked
    measured: str  # what the small version measures
    criterion: str
    sizes: tuple[str, ...] = ("cpu",)  # those of --size that it has


class Check(NamedTuple):
    """A part of the criterion: whether it holds, None where the seeds do not decide it, and the numbers."""

    criterion: str
    passed: bool | None
    numbers: str


def by_seed(criterion: str, results: Sequence[T], holds: Callable[[T], tuple[bool, str]]) -> Check:
    """A check that has to hold in two thirds of the seeds, and fails where it holds in a third of them or fewer."""
    each = [holds(result) for result in results]
    share = sum(passed for passed, _ in each) / len(each)
    passed = True if share >= SHARE else (False if share <= 1 - SHARE else None)
    return Check(criterion, passed, "; ".join(numbers for _, numbers in each))


def on_mean(
    criterion: str,
    values: Sequence[float],
    *,
    low: float = -math.inf,
    high: float = math.inf,
    digits: int = 3,
) -> Check:
    """A check that the mean over seeds is at least `low` and at most `high`; the numbers have its 95 % interval.

    A mean that is not, but whose interval reaches there, says nothing against the claim: the check is open.
    """
    middle, half = mean_and_interval(values)
    passed: bool | None = bool(low <= middle <= high)
    if not passed and middle - half <= high and middle + half >= low:
        passed = None
    return Check(criterion, passed, number(middle, half, digits))


def above_zero(criterion: str, values: Sequence[float], *, digits: int = 3) -> Check:
    """A check that the mean over seeds is above 0 with its whole 95 % interval; open where the interval has 0."""
    middle, half = mean_and_interval(values)
    passed = None if math.isnan(half) or abs(middle) <= half else middle > 0
    return Check(criterion, passed, number(middle, half, digits))


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of its 95 % interval by Student's t); of a single value the half is NaN."""
    several = np.asarray(values, float)
    if len(several) < 2:
        return float(several.mean()), math.nan
    freedom = len(several) - 1
    quantile = _T95[freedom - 1] if freedom <= len(_T95) else 1.96
    return float(several.mean()), float(quantile * several.std(ddof=1) / math.sqrt(len(several)))


def number(middle: float, half: float, digits: int = 3) -> str:
    """A mean with its interval as text."""
    return f"{middle:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def verdict(checks: Sequence[Check], seeds: int) -> str:
    """Reproduced where every check holds; inconclusive where none fails and one is open, or the seeds are too few."""
    if seeds < SEEDS or not checks:
        return INCONCLUSIVE
    if any(check.passed is False for check in checks):
        return NOT_REPRODUCED
    return INCONCLUSIVE if any(check.passed is None for check in checks) else REPRODUCED
