"""Line plots as one SVG without a script: axes, units, legends, marks; light and dark as the reader has it."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDE, HIGH, COLUMNS = 440, 230, 2  # px of a panel, panels in a row
LEFT, RIGHT, TOP, BOTTOM = 52, 52, 46, 34  # px around the plotted area
POINTS = 300  # most points of a line: means of neighbours, where there are more
TICKS = 4
STYLE = """
.plot{--ink:#1c2330;--soft:#5a6577;--line:#dde2ea;--page:#f7f8fa;--card:#fff;--c0:#2f62cc;--c1:#b4531d;--m0:#b3372a;--m1:#1d7a46}
@media(prefers-color-scheme:dark){.plot{--ink:#e4e8ef;--soft:#98a3b5;--line:#2d3644;--page:#12161d;--card:#1a202a;
--c0:#7ea6ff;--c1:#f0a35e;--m0:#ff8f7d;--m1:#6fcf97}}
.plot .page{fill:var(--page)}.plot .card{fill:var(--card);stroke:var(--line)}.plot .grid{stroke:var(--line)}
.plot text{fill:var(--soft);font:11px system-ui,sans-serif}.plot .title{fill:var(--ink);font-weight:600;font-size:13px}
.plot .l0{stroke:var(--c0)}.plot .l1{stroke:var(--c1);stroke-dasharray:6 3}
.plot .m0{stroke:var(--m0);stroke-dasharray:2 3}
.plot .m1{stroke:var(--m1);stroke-dasharray:9 3}
.plot path{fill:none;stroke-width:1.7}.plot .t0{fill:var(--c0)}.plot .t1{fill:var(--c1)}
.plot .k0{fill:var(--m0)}.plot .k1{fill:var(--m1)}
"""


class Line(NamedTuple):
    """A series of a panel."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


class Panel(NamedTuple):
    """A plot: its first line has the axis on the left, a second one the axis on the right, in its own unit."""

    title: str
    lines: tuple[Line, ...]
    units: tuple[str, ...]
    low: float | None = None  # least value of the axes, where it is known


class Mark(NamedTuple):
    """A vertical line through every panel; a figure has two at most."""

    x: float
    label: str


def figure(panels: Sequence[Panel], *, x_label: str, title: str = "", marks: Sequence[Mark] = ()) -> str:
    """The panels that have points, in rows of two, as an <svg> element."""
    panels = [panel for panel in panels if any(len(line.x) for line in panel.lines)]
    head = 30 if title or marks else 0
    rows = -(-len(panels) // COLUMNS)
    wide, high = COLUMNS * WIDE, head + max(rows, 1) * HIGH
    body = [f'<rect class="page" width="{wide}" height="{high}"/>']
    body += [f'<text class="title" x="8" y="20">{html.escape(title)}</text>'] if title else []
    body += _legend([(f"m{i}", f"k{i}", mark.label) for i, mark in enumerate(marks)], WIDE + LEFT, 16)
    ends = [float(x) for panel in panels for line in panel.lines for x in line.x] or [0.0, 1.0]
    x_range = min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1
    for i, panel in enumerate(panels):
        x, y = i % COLUMNS * WIDE, head + i // COLUMNS * HIGH
        body.append(f'<g transform="translate({x} {y})">{_panel(panel, x_range, x_label, marks)}</g>')
    return (
        f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        f'style="width:100%;max-width:{wide}px;height:auto" role="img" '
        f'aria-label="{html.escape(title or "curves")}"><style>{STYLE}</style>{"".join(body)}</svg>'
    )


def _panel(panel: Panel, x_range: tuple[float, float], x_label: str, marks: Sequence[Mark]) -> str:
    right, bottom = WIDE - RIGHT, HIGH - BOTTOM

    def at(x: float) -> float:
        return LEFT + (right - LEFT) * (x - x_range[0]) / (x_range[1] - x_range[0])

    out = [
        f'<rect class="card" x="4" y="4" width="{WIDE - 8}" height="{HIGH - 8}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="22">{html.escape(panel.title)}</text>',
        *_legend([(f"l{i}", f"t{i}", line.label) for i, line in enumerate(panel.lines[:2])], LEFT, 34),
    ]
    for tick in ticks(*x_range):
        out.append(f'<text x="{at(tick):.1f}" y="{bottom + 14}" text-anchor="middle">{_number(tick)}</text>')
    out.append(
        f'<text x="{(LEFT + right) / 2}" y="{HIGH - 10}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    for i, line in enumerate(panel.lines[:2]):
        x, y = thinned(line)
        if not len(x):
            continue
        low, high = _limits(y, panel.low)
        out += _axis(low, high, i, panel.units[i], bottom, right)
        heights = bottom - (bottom - TOP) * (y - low) / (high - low)
        points = " L".join(f"{at(a):.1f} {b:.1f}" for a, b in zip(x, heights, strict=True))
        out.append(f'<path class="l{i}" d="M{points}{" l0.1 0" * (len(x) == 1)}"/>')
    for i, mark in enumerate(marks[:2]):
        out.append(f'<path class="m{i}" d="M{at(mark.x):.1f} {TOP} V{bottom}"/>')
    return "".join(out)


def _axis(low: float, high: float, side: int, unit: str, bottom: int, right: int) -> list[str]:
    """The labels of an axis and, for the left one, the grid."""
    out, (x, anchor) = [], ((LEFT - 6, "end"), (right + 6, "start"))[side]
    for tick in ticks(low, high):
        y = bottom - (bottom - TOP) * (tick - low) / (high - low)
        if not side:
            out.append(f'<path class="grid" d="M{LEFT} {y:.1f} H{right}" style="stroke-width:1"/>')
        out.append(
            f'<text class="t{side}" x="{x}" y="{y + 4:.1f}" text-anchor="{anchor}">{_number(tick)}</text>'
        )
    turn, place = (-90, 14) if not side else (90, WIDE - 14)
    middle = (TOP + bottom) / 2
    out.append(
        f'<text class="t{side}" text-anchor="middle" transform="translate({place} {middle}) rotate({turn})">'
        f"{html.escape(unit)}</text>"
    )
    return out


def _legend(entries: Sequence[tuple[str, str, str]], x: float, y: int) -> list[str]:
    """What lines and marks are, side by side: (class of the line, class of the text, text) each."""
    out = []
    for stroke, text, label in entries:
        out.append(f'<path class="{stroke}" d="M{x:.0f} {y} h18"/>')
        out.append(f'<text class="{text}" x="{x + 23:.0f}" y="{y + 4}">{html.escape(label)}</text>')
        x += 40 + 6.5 * len(label)
    return out


def thinned(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) f64[n] of a line's finite points, at most POINTS of them: means of neighbours, where there are more."""
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    if len(x) <= POINTS:
        return x, y
    parts = [np.array_split(values, POINTS) for values in (x, y)]
    return np.array([part.mean() for part in parts[0]]), np.array([part.mean() for part in parts[1]])


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about TICKS of them."""
    raw = (high - low) / TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _limits(y: np.ndarray, low: float | None) -> tuple[float, float]:
    """The ends of an axis, with room above and below the values."""
    least, most = float(y.min()), float(y.max())
    span = (most - least) or abs(most) or 1.0
    bottom = least - 0.06 * span if low is None else min(low, least)
    return bottom, most + 0.06 * span


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
