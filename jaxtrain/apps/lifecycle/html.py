"""report.html of the whole lifecycle: one file, no network, light and dark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.files import html
from jaxtrain.files.terminal import percent

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
    filters = {"number": number, "between": between, "worst": worst}
    return html.template(Path(__file__).parent / "pages" / "lifecycle.html.jinja", filters).render(
        result=result,
        seeds=result.get("seeds", []),
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


def number(value: Any, unit: str = ".3f") -> str:
    """A number, or the mean of a band, as a percentage or a format; a dash where there is none, a text as it is."""
    if isinstance(value, Mapping):
        value = value["mean"]
    if value is None or isinstance(value, str):
        return value or "–"
    return percent(value) if unit == "%" else format(value, unit)


def between(value: Any, unit: str = ".3f") -> str:
    """Least and most of a band, and how many seeds have no number; empty where it is no band of several."""
    if not isinstance(value, Mapping) or len(value["values"]) < 2:
        return ""
    lacking = sum(one is None for one in value["values"])
    text = f"{number(value['least'], unit)} to {number(value['most'], unit)}"
    return text + f", {lacking} of {len(value['values'])} seeds without" * bool(lacking)


def spread(value: Any, unit: str = ".3f") -> str:
    """A number in one line; of a band mean (least to most)."""
    return number(value, unit) + f" ({between(value, unit)})" * bool(between(value, unit))


def worst(claim: Mapping[str, Any]) -> str:
    """The worst seed of a claim, with its number, and the others that miss it, too."""
    seed, value = claim["worst"]["seed"], claim["worst"]["value"]
    others = [str(one) for one in claim["missed"] if one != seed]
    return f"{seed}: {number(value)}" + f", also {', '.join(others)}" * bool(others)


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
                f"{number(stage['seconds'], '.0f')} s", stage["reached"],
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
    """A curve as an SVG polyline of 100 x 40, the band of several seeds as a polygon, and the numbers at its ends.

    Points are [step, value], or [step, mean, least, most].
    """
    points = one["points"]
    points = [*points[: -1 : max(1, len(points) // POINTS)], points[-1]]
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = min(min(p[1:]) for p in points), max(max(p[1:]) for p in points)
    span, wide = (high - low) or 1.0, (xs[-1] - xs[0]) or 1

    def line(values: Sequence[float]) -> list[str]:
        return [
            f"{100 * (x - xs[0]) / wide:.2f},{38 - 36 * (y - low) / span:.2f}"
            for x, y in zip(xs, values, strict=True)
        ]

    banded = len(points[0]) > 2
    polygon = [*line([p[2] for p in points]), *reversed(line([p[3] for p in points]))] if banded else []
    return {
        "title": one["title"], "polyline": " ".join(line(ys)), "polygon": " ".join(polygon), "low": f"{low:.3g}",
        "high": f"{high:.3g}", "first": f"{ys[0]:.3g}", "last": f"{ys[-1]:.3g}", "steps": f"{xs[-1]:,}",
    }  # fmt: skip
