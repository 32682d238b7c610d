"""Mixtures whose weights change by step: `a*0.7@0,a*0.2@10000,b*0.3@0,b*0.8@10000`.

A batch's rows are global rows, and row i is a function of i alone, as everywhere: the step is the whole state. Between
two changes the rows of a source are spread evenly: its row k has the place (k + ½) / weight, and rows are taken in the
order of their places. Counted in whole numbers, so that no rounding skips a row or takes one twice; each source goes on
where it stood.
"""

import bisect
import dataclasses
import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from jaxtrain.config import ConfigError


class Segment(NamedTuple):
    """Rows from `first` on, until the next segment: whole numbers in proportion to the sources' weights."""

    first: int
    weights: tuple[int, ...]
    offsets: tuple[int, ...]  # rows of each source before `first`


def merge(sources: Sequence[Any], flag: str, text: str) -> tuple[Any, ...]:
    """The sources (source_spec.DataSource), those with a schedule once, with all its steps.

    Its weight is then the greatest of them. Raises ConfigError, naming --`flag`, for steps that contradict each other.
    """
    merged: dict[Any, Any] = {}
    for number, source in enumerate(sources):
        plain = dataclasses.replace(source, weight=1.0, schedule=())
        if not source.schedule:
            if any(other.schedule for other in merged.values() if _same(other, plain)):
                raise _unclear(source, flag, text)
            merged[number] = source
            continue
        if any(_same(other, plain) and not other.schedule for other in merged.values()):
            raise _unclear(source, flag, text)
        before = merged[plain].schedule if plain in merged else ()
        if {step for step, _ in before} & {step for step, _ in source.schedule}:
            raise ConfigError(
                f"--{flag}={text}: {source.label} has two weights at step {source.schedule[0][0]}"
            )
        schedule = tuple(sorted((*before, *source.schedule)))
        weight = max(weight for _, weight in schedule)
        merged[plain] = dataclasses.replace(source, weight=weight, schedule=schedule)
    found = tuple(merged.values())
    if any(source.schedule for source in found):
        _check(found, flag, text)
    return found


def _same(source: Any, plain: Any) -> bool:
    return dataclasses.replace(source, weight=1.0, schedule=()) == plain


def _unclear(source: Any, flag: str, text: str) -> ConfigError:
    return ConfigError(
        f"--{flag}={text}: {source.label} has a weight with a step and one without; write *WEIGHT@STEP for each"
    )


def _check(sources: Sequence[Any], flag: str, text: str) -> None:
    if len(sources) == 1:
        raise ConfigError(f"--{flag}={text}: weights by step act only beside another source")
    for step in steps(sources):
        if not any(weights_at(sources, step)):
            raise ConfigError(f"--{flag}={text}: no source has a weight above 0 at step {step}")


def steps(sources: Sequence[Any]) -> list[int]:
    """The steps at which weights change, 0 among them."""
    return sorted({0, *(step for source in sources for step, _ in source.schedule)})


def weights_at(sources: Sequence[Any], step: int) -> list[float]:
    """Each source's weight at a step: 0 before the first one of its schedule."""
    return [
        [0.0, *(weight for first, weight in source.schedule if first <= step)][-1]
        if source.schedule
        else source.weight
        for source in sources
    ]


def segments(sources: Sequence[Any], batch_size: int) -> list[Segment]:
    """The segments of global rows, of which a step has `batch_size`."""
    found: list[Segment] = []
    for step in steps(sources):
        exact = [Fraction(repr(weight)) for weight in weights_at(sources, step)]
        whole = math.lcm(*(one.denominator for one in exact))
        numbers = tuple(int(one * whole) for one in exact)
        offsets = (0,) * len(numbers)
        if found:
            last = found[-1]
            taken = counts(last.weights, step * batch_size - last.first)
            offsets = tuple(a + b for a, b in zip(last.offsets, taken, strict=True))
        found.append(Segment(step * batch_size, numbers, offsets))
    return found


def counts(weights: Sequence[int], rows: int) -> list[int]:
    """How many of the first `rows` rows each source has."""
    total, sources = sum(weights), sum(map(bool, weights))
    start = max(0, rows - sources)  # before which at most `rows` rows lie
    found = [(2 * weight * start + total) // (2 * total) if weight and start else 0 for weight in weights]
    while sum(found) < rows:
        found[_next(weights, found)] += 1
    return found


def _next(weights: Sequence[int], taken: Sequence[int]) -> int:
    """The source of the next row: that whose next place, (k + ½) / weight, is the least; of equal ones the first."""
    return min(
        (source for source, weight in enumerate(weights) if weight),
        key=lambda source: Fraction(2 * taken[source] + 1, weights[source]),
    )


class _Rows:
    """The mixed rows, by their global number."""

    def __init__(self, sets: Sequence[Any], parts: Sequence[Segment]):
        self._sets, self._segments, self._firsts = sets, parts, [part.first for part in parts]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> Any:
        part = self._segments[bisect.bisect_right(self._firsts, i) - 1]
        taken = counts(part.weights, i - part.first)
        source = _next(part.weights, taken)
        return self._sets[source][part.offsets[source] + taken[source]]


def mixed(sets: Sequence[Any], sources: Sequence[Any], batch_size: int) -> Any:
    """A grain data set of the rows of endless ones, one for each source, by their weights."""
    import grain

    if any(source.schedule for source in sources):
        return grain.MapDataset.source(_Rows(sets, segments(sources, batch_size)))
    return sets[0] if len(sets) == 1 else grain.MapDataset.mix(sets, [source.weight for source in sources])
