"""report.html of the whole lifecycle: one file, no network, light and dark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.files import html

WIDE, HIGH, GAP_X, GAP_Y = 168, 52, 48, 16  # a box of the lineage, and the space between two, in px
POINTS = 160  # most points of a curve


class LineageBox(NamedTuple):
    """A stage in the lineage graph; x, y in px."""

    name: str
    title: str
    x: int
    y: int
    caption: str
    reached: bool


def page(result: Mapping[str, Any]) -> str:
    """The HTML page of a result.json."""
    stages = result["stages"]
    boxes, lines, size = lineage(stages)
    claims = [claim for stage in stages for claim in stage["claims"]]
    return html.template(Path(__file__).parent / "pages" / "lifecycle.html.jinja", {"number": number}).render(
        result=result,
        boxes=boxes,
        lines=lines,
        size=size,
        wide=WIDE,
        high=HIGH,
        missed=sum(not claim["reached"] for claim in claims),
        claims=len(claims),
        curves=[
            {"stage": stage["title"], **curve(one)}
            for stage in stages
            for one in stage["curves"]
            if len(one["points"]) > 1
        ],
        short=short,
    )


def short(measure: str) -> str:
    """A measure's short name."""
    words = {
        "eval/bits_per_byte_above_entropy": "bits/byte above entropy",
        "eval/gold_accuracy": "agrees with gold",
        "objective/kl": "KL, nats",
        "eval/divergence": "KL to the teacher",
    }
    return words.get(measure, measure)


def number(value: float | None) -> str:
    """Three digits after the point; a dash where there is no number."""
    return "–" if value is None else f"{value:.3f}"


def lineage(
    stages: Sequence[Mapping[str, Any]],
) -> tuple[list[LineageBox], list[tuple[int, int, int, int]], tuple[int, int]]:
    """(boxes, lines (x, y, x, y), (width, height)): one column for each depth; a stage's needs are to its left."""
    depth: dict[str, int] = {}
    for stage in stages:
        depth[stage["name"]] = max((depth[name] + 1 for name in stage["needs"]), default=0)
    column: dict[int, list[Mapping[str, Any]]] = {}
    for stage in stages:
        column.setdefault(depth[stage["name"]], []).append(stage)
    tallest = max(len(rows) for rows in column.values())
    boxes = {}
    for d, rows in column.items():
        top = (tallest - len(rows)) * (HIGH + GAP_Y) // 2
        for i, stage in enumerate(rows):
            boxes[stage["name"]] = LineageBox(
                stage["name"], stage["stage"], d * (WIDE + GAP_X) + 1, top + i * (HIGH + GAP_Y) + 1,
                f"{stage['seconds']:.0f} s", stage["reached"],
            )  # fmt: skip
    lines = [
        (boxes[need].x + WIDE, boxes[need].y + HIGH // 2, boxes[stage["name"]].x, boxes[stage["name"]].y + HIGH // 2)
        for stage in stages
        for need in stage["needs"]
    ]  # fmt: skip
    return (
        [*boxes.values()],
        lines,
        (len(column) * (WIDE + GAP_X) - GAP_X + 2, tallest * (HIGH + GAP_Y) - GAP_Y + 2),
    )


def curve(one: Mapping[str, Any]) -> dict[str, Any]:
    """A curve as an SVG polyline of 100 x 40, and the numbers at its ends."""
    points = one["points"]
    points = points[:: max(1, len(points) // POINTS)]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = min(ys), max(ys)
    span, wide = (high - low) or 1.0, (xs[-1] - xs[0]) or 1
    polyline = " ".join(
        f"{100 * (x - xs[0]) / wide:.2f},{38 - 36 * (y - low) / span:.2f}"
        for x, y in zip(xs, ys, strict=True)
    )
    return {
        "title": one["title"], "polyline": polyline, "low": f"{low:.3g}", "high": f"{high:.3g}",
        "first": f"{ys[0]:.3g}", "last": f"{ys[-1]:.3g}", "steps": f"{xs[-1]:,}",
    }  # fmt: skip
