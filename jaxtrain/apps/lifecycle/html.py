"""report.html of the whole lifecycle: one file, no network, light and dark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.files import charts, html
from jaxtrain.files.charts import Chart, Line
from jaxtrain.files.terminal import percent
from jaxtrain.measures import glossary, win_rates

WIDE, HIGH, GAP_X, GAP_Y = 168, 52, 56, 26  # a box of the lineage, and the space between two, in px
_LANE = 5  # px between two arrows in one space between rows


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
    boxes, arrows, size = lineage(stages)
    claims = [claim for stage in stages for claim in stage["claims"]]
    names = [claim["measure"] for claim in claims]
    names += [row["measure"] for table in result["tables"] for row in table["rows"]]
    filters = {"number": number, "between": between, "worst": worst, "unit": unit}
    return html.template(Path(__file__).parent / "pages" / "lifecycle.html.jinja", filters).render(
        result=result,
        seeds=result.get("seeds", []),
        interval=lambda value, measure: interval(value, measure, result.get("counts", {})),
        boxes=boxes,
        arrows=arrows,
        size=size,
        wide=WIDE,
        high=HIGH,
        missed=sum(not claim["reached"] for claim in claims),
        claims=len(claims),
        curves=[
            drawn
            for stage in stages
            for one in stage["curves"]
            if (drawn := curve(one, stage["title"], len(result.get("seeds", []))))
        ],
        title=lambda measure: glossary.get(measure).title,
        glossary=glossary.used(names),
    )


def unit(measure: str) -> str:
    """How a measure's numbers are written."""
    return "%" if glossary.get(measure).share else ".3f"


def number(value: Any, unit: str = ".3f") -> str:
    """A number, or the mean of a band, as a percentage or a format; a dash where there is none, a text as it is."""
    if isinstance(value, Mapping):
        value = value["mean"]
    if value is None or isinstance(value, str):
        return value or "–"
    return percent(value, digits=1) if unit == "%" else format(value, unit)


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


def interval(value: Any, measure: str, counts: Mapping[str, int]) -> str:
    """What stands below a number: of several seeds the least and the most, of one a share's 95 % interval; and n."""
    if value is None or isinstance(value, str):
        return ""
    count, ends = counts.get(measure, 0), between(value, unit(measure))
    if count and not ends and glossary.get(measure).share:
        share = value["mean"] if isinstance(value, Mapping) else value
        return win_rates.interval_text(share, count, digits=1)
    return ", ".join(filter(None, [ends, f"n {count:,}" if count else ""]))


def certainty(value: Any, measure: str, counts: Mapping[str, int]) -> str:
    """Of several seeds how many answers of each the number is of, of one seed what `interval` has."""
    if isinstance(value, Mapping):
        return f"{counts[measure]:,}" if measure in counts else ""
    return interval(value, measure, counts)


def worst(claim: Mapping[str, Any]) -> str:
    """The worst seed of a claim, with its number, and the others that miss it, too."""
    seed, value = claim["worst"]["seed"], claim["worst"]["value"]
    others = [str(one) for one in claim["missed"] if one != seed]
    return f"{seed}: {number(value, unit(claim['measure']))}" + f", also {', '.join(others)}" * bool(others)


def lineage(
    stages: Sequence[Mapping[str, Any]],
) -> tuple[list[LineageBox], list[str], tuple[int, int]]:
    """(boxes, arrows as paths, (width, height)): one column for each depth; a stage's needs are to its left.

    An arrow to the next column crosses the space between; one over several columns runs between two rows of boxes.
    """
    depth: dict[str, int] = {}
    for stage in stages:
        depth[stage["name"]] = max((depth[name] + 1 for name in stage["needs"]), default=0)
    columns = [[one for one in stages if depth[one["name"]] == d] for d in range(max(depth.values()) + 1)]
    tallest = max(map(len, columns))
    rows: dict[str, int] = {}
    boxes = {}
    for d, column in enumerate(columns):
        for i, stage in enumerate(column, (tallest - len(column)) // 2):
            rows[stage["name"]] = i
            boxes[stage["name"]] = LineageBox(
                stage["name"], stage["stage"], d * (WIDE + GAP_X) + 1, i * (HIGH + GAP_Y) + GAP_Y // 2,
                f"{number(stage['seconds'], '.0f')} s", stage["reached"],
            )  # fmt: skip
    lanes: dict[int, int] = {}  # arrows so far in the space above each row
    arrows = []
    for stage in stages:
        for need in stage["needs"]:
            lane = None
            if depth[stage["name"]] - depth[need] > 1:
                row = min(max(rows[need], rows[stage["name"]]), tallest - 1)
                lane = row * (HIGH + GAP_Y) + _LANE * (lanes.get(row, 0) - 1)
                lanes[row] = lanes.get(row, 0) + 1
            arrows.append(_arrow(boxes[need], boxes[stage["name"]], lane))
    return [*boxes.values()], arrows, (len(columns) * (WIDE + GAP_X) - GAP_X + 2, tallest * (HIGH + GAP_Y))


def _arrow(start: LineageBox, end: LineageBox, lane: int | None) -> str:
    """The path from a box's right side to another's left; over several columns at the height of `lane`."""
    (x0, y0), (x1, y1), half = (
        (start.x + WIDE, start.y + HIGH // 2),
        (end.x - 2, end.y + HIGH // 2),
        GAP_X // 2,
    )
    if lane is None:
        return f"M{x0} {y0} C{x0 + half} {y0} {x1 - half} {y1} {x1} {y1}"
    left, right = x0 + GAP_X, x1 - GAP_X + 2
    out, back = (
        f"C{x0 + half} {y0} {left - half} {lane} {left} {lane}",
        f"C{right + half} {lane} {x1 - half} {y1}",
    )
    return f"M{x0} {y0} {out} H{right} {back} {x1} {y1}"


def curve(one: Mapping[str, Any], stage: str, seeds: int = 0) -> Chart | None:
    """The chart of a curve, with its held-out numbers; bands from the least to the most of several seeds.

    Points are [step, value], or [step, mean, least, most]. None of fewer than two points.
    """
    if len(one["points"]) < 2:
        return None
    x = one.get("x", "step")
    sides = (
        ("training" if x == "step" else one["title"], one["points"]),
        ("held out", one.get("held_out", [])),
    )
    scale = 100 if one.get("unit", "").startswith("%") else 1  # a share as a percentage
    lines = [Line(name, *_columns(points, scale)) for name, points in sides if points]
    note = f"the mean of {seeds} seeds, and a band from the least to the most" if seeds > 1 else ""
    return charts.line_chart(f"{stage}: {one['title']}", lines, x=x, units=[one.get("unit", "")], note=note)


def _columns(points: Sequence[Sequence[float]], scale: float) -> list[Sequence[float]]:
    steps, *columns = zip(*points, strict=True)
    return [list(steps), *([scale * value for value in column] for column in columns)]
