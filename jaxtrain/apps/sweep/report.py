"""The result of a sweep: combinations ranked by a metric, as a table, JSON, and a page with charts."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.sweep.runner import SweepRun, is_finished, last_line
from jaxtrain.files import atomic, charts, html
from jaxtrain.train import metrics

PAGE = Path(__file__).parent / "pages" / "sweep.html.jinja"
RESULT, REPORT = "result.json", "report.html"
MOST_LINES = 8  # of a chart


def value_of(run: SweepRun, metric: str) -> float | None:
    """The last value of a metric of a finished run; None where it has none, or one that is not finite."""
    rows, _ = metrics.read_rows(run.path / metrics.FILE)
    return next((row[metric] for row in reversed(rows) if metric in row), None)


def result(runs: Sequence[SweepRun], metric: str, mode: str, failed: Mapping[Path, int]) -> dict[str, Any]:
    """The combinations, the best one first: flags, and the metric's values, mean and spread over the seeds."""
    trials: dict[str, dict[str, Any]] = {}
    for run in runs:
        one = trials.setdefault(
            run.trial.name,
            {"name": run.trial.name, "flags": dict(run.trial.flags), "values": {}, "failed": {}},
        )
        if run.path in failed:
            one["failed"][str(run.seed)] = f"status {failed[run.path]}: {last_line(run)}"
        elif is_finished(run) and (value := value_of(run, metric)) is not None:
            one["values"][str(run.seed)] = value
        else:
            one["failed"][str(run.seed)] = f"no finite {metric} in its metrics"
    for one in trials.values():
        values = [*one["values"].values()]
        one["mean"] = statistics.fmean(values) if values else None
        one["deviation"] = statistics.stdev(values) if len(values) > 1 else None
    sign = -1 if mode == "max" else 1

    def order(one: Mapping[str, Any]) -> tuple[bool, float]:
        """Those that failed on a seed come last: the mean of the others is one of better runs."""
        return bool(one["failed"]), math.inf if one["mean"] is None else sign * one["mean"]

    ranked = sorted(trials.values(), key=order)
    return {"metric": metric, "mode": mode, "trials": ranked}


def lines(found: Mapping[str, Any]) -> list[str]:
    """The ranked combinations as a table for a terminal."""
    names = [*found["trials"][0]["flags"]]
    head = [*names, found["metric"], "±", "seeds"]
    rows = [
        [
            *one["flags"].values(),
            "failed" if one["mean"] is None else f"{one['mean']:.5g}",
            "" if one["deviation"] is None else f"{one['deviation']:.2g}",
            f"{len(one['values'])}"
            + (f" of {len(one['values']) + len(one['failed'])}" if one["failed"] else ""),
        ]
        for one in found["trials"]
    ]
    wide = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    table = [
        "  ".join(f"{cell:>{size}}" for cell, size in zip(row, wide, strict=True)) for row in [head, *rows]
    ]
    failures = [
        f"{one['name']}, seed {seed}: {why}" for one in found["trials"] for seed, why in one["failed"].items()
    ]
    return [*table, *failures]


def figures(found: Mapping[str, Any]) -> list[charts.Chart]:
    """A chart of the metric over each flag that has several numbers; a line for each combination of the others."""
    there = [one for one in found["trials"] if one["mean"] is not None]
    made = []
    for name in there[0]["flags"] if there else ():
        numbers = [_number(one["flags"][name]) for one in there]
        if None in numbers or len({*numbers}) < 2:
            continue
        groups: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        for number, one in zip(numbers, there, strict=True):
            others = ", ".join(f"{key}={value}" for key, value in one["flags"].items() if key != name)
            groups.setdefault(others, []).append((number, one))
        if len(groups) > MOST_LINES:  # drawn at random: each is alone
            groups = {"all": [pair for group in groups.values() for pair in group]}
        drawn = []
        for label, pairs in groups.items():
            pairs = sorted(pairs, key=lambda pair: pair[0])
            values = [[*one["values"].values()] for _, one in pairs]
            drawn.append(
                charts.Line(
                    label or found["metric"], [number for number, _ in pairs], [one["mean"] for _, one in pairs],
                    [min(each) for each in values], [max(each) for each in values],
                )
            )  # fmt: skip
        note = (
            "the band is from the least to the most of the seeds"
            if any(len(one["values"]) > 1 for one in there)
            else ""
        )
        made.append(
            charts.line_chart(
                f"{found['metric']} by {name}", drawn, x=name, units=[found["metric"]], note=note
            )
        )
    return made


def _number(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def write(found: Mapping[str, Any], out: Path) -> None:
    """Writes result.json and report.html."""
    atomic.write_text(out / RESULT, config.dumps(found) + "\n")
    page = html.template(PAGE).render(result=found, charts=figures(found))
    atomic.write_text(out / REPORT, page)
