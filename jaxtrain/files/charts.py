"""Charts of the HTML reports: what pages/chart.js draws with uPlot, as plain JSON.

A chart has axes with units, hover values (arrow keys, too), held-out beside training, bands over seeds, and marks. All
that a page needs is inside it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

POINTS = 600  # most points of a line: means of neighbours, where there are more
Chart = dict[str, Any]


class Line(NamedTuple):
    """A series: y over x, and where it is a mean over seeds the least and the most."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    right: bool = False  # on an axis of its own, at the right


class Mark(NamedTuple):
    """A vertical line."""

    x: float
    label: str


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    units: Sequence[str],
    marks: Sequence[Mark] = (),
    least: float | None = None,
    note: str = "",
) -> Chart | None:
    """A line chart of the lines that have points; None where none has.

    `units` are of the left axis and, where a line is on the right one, of that. `least` is an end that axes have,
    `note` a sentence below the chart.
    """
    series, notes = [], [note] if note else []
    for line in lines:
        columns, each = _thinned(line)
        if len(columns[0]):
            names = ("x", "y", "low", "high")[: len(columns)]
            values = {name: _plain(column) for name, column in zip(names, columns, strict=True)}
            series.append({"label": line.label, "right": line.right, **values})
            notes += [f"{line.label}: each point is the mean of {each} values"] if each > 1 else []
    if not series:
        return None
    return {
        "kind": "lines", "title": title, "x": x, "units": [*units], "series": series,
        "marks": [mark._asdict() for mark in marks], "least": least, "note": "; ".join(notes),
    }  # fmt: skip


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    x: str,
    unit: str,
    marks: Sequence[Mark] = (),
) -> Chart:
    """Bars between the edges, of equal width: `edges` has one more number than `counts`."""
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    labels = [f"{_text(a)} to {_text(b)}" for a, b in pairwise(edges)]
    return {
        "kind": "bars", "title": title, "x": x, "units": [unit],
        "series": [{"label": unit, "right": False, "x": _plain(middles), "y": [*map(int, counts)]}],
        "labels": labels, "ends": [float(edges[0]), float(edges[-1])],
        "marks": [mark._asdict() for mark in marks], "least": 0.0, "note": "",
    }  # fmt: skip


def bar_chart(
    title: str,
    labels: Sequence[str],
    counts: Sequence[float],
    *,
    x: str,
    unit: str,
    ends: Sequence[tuple[float, float]] | None = None,
    most: float | None = None,
    note: str = "",
) -> Chart:
    """A bar of each label; `ends` are those of the bars' intervals, `most` is the upper end of the axis."""
    intervals = (
        {} if ends is None else {"low": _plain([a for a, _ in ends]), "high": _plain([b for _, b in ends])}
    )
    return {
        "kind": "bars", "title": title, "x": x, "units": [unit],
        "series": [{"label": unit, "right": False, "x": [*range(len(labels))], "y": _plain(counts), **intervals}],
        "labels": [*labels], "ticks": [*labels], "ends": [-0.5, len(labels) - 0.5], "marks": [], "least": 0.0,
        "most": most, "note": note,
    }  # fmt: skip


def summary(chart: Mapping[str, Any]) -> str:
    """What a chart shows, in words, for readers who do not see it."""
    parts = []
    for one in chart["series"]:
        values = [value for value in one["y"] if value is not None]
        if chart["kind"] == "bars":
            most = max(range(len(values)), key=values.__getitem__, default=0)
            parts.append(
                f"{sum(values):,.6g} in {len(values)} bars, most at {chart['labels'][most]}" if values else ""
            )
        else:
            parts.append(f"{one['label']} from {_text(values[0])} to {_text(values[-1])}")
    marks = [f"{mark['label']} at {_text(mark['x'])}" for mark in chart["marks"]]
    return f"{chart['title']}: {'; '.join([*filter(None, parts), *marks])}"


def _thinned(line: Line) -> tuple[list[np.ndarray], int]:
    """(x, y and, of a band, low and high f64[n] of the finite points, how many values a point is the mean of)."""
    given = [line.x, line.y, *(() if line.low is None else (line.low, line.high))]
    columns = [np.array([math.nan if v is None else v for v in column], np.float64) for column in given]
    there = np.isfinite(columns[0]) & np.isfinite(columns[1])
    columns = [column[there] for column in columns]
    count = len(columns[0])
    if count <= POINTS:
        return columns, 1
    each = -(-count // POINTS)
    starts = np.arange(0, count, each)
    sizes = np.diff([*starts, count])
    return [np.add.reduceat(column, starts) / sizes for column in columns], each


def _plain(values: Any) -> list[float | int | None]:
    """The numbers with six digits; None for one that is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in map(float, values)]


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
