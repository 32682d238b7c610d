"""The charts of an on-policy run: score against a watched reward or gold, KL, entropy, length, capped share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.files import html
from jaxtrain.files.charts import Chart, Line, Mark, line_chart
from jaxtrain.rl.overoptimisation import GOLD, TRAINED, turn_of, watched_metrics
from jaxtrain.train.metric_series import series

FILE = "curves.html"  # in the workdir
STEP = "step (updates)"
# (title, metric, label, unit)
CHARTS = (
    ("KL from the reference", "objective/kl", "KL", "nats a completion"),
    ("Entropy of the policy", "objective/entropy", "entropy", "nats a completion"),
    ("Length of completions", "completions/mean_length", "mean length", "tokens"),
    ("Scores above the cap", "objective/scores_capped", "capped", "% of the completions"),
    (
        "Completions without an end",
        "completions/clipped_ratio",
        "cut off at --max_new",
        "% of the completions",
    ),
)


def charts(rows: Sequence[Mapping[str, Any]], best: int | None = None, updates: int = 1) -> list[Chart]:
    """The curves in the lines of a metrics.jsonl.

    best: the step of the best checkpoint. updates: of an iteration, as `turn_of` has them.
    """
    turn = turn_of(rows, updates)
    marks = [Mark(turn.step, f"turn, step {turn.step}")] if turn else []
    if best is not None and (turn is None or best != turn.step):
        marks.append(Mark(best, f"best, step {best}"))
    name = next(iter(watched_metrics(rows)), "")
    lines, units = [Line("score", *series(rows, TRAINED))], ["score"]
    if name:
        units.append("gold reward" if name == GOLD else "watched reward")
        lines.append(Line(units[1], *series(rows, name), right=True))
    heading = f"Score and {units[1]}" if name else "Score of the trained reward"
    made = [line_chart(heading, lines, x=STEP, units=units, marks=marks)]
    made += [
        line_chart(head, [_line(rows, key, label, unit)], x=STEP, units=[unit], marks=marks, least=0.0)
        for head, key, label, unit in CHARTS
    ]
    return [chart for chart in made if chart]


def _line(rows: Sequence[Mapping[str, Any]], key: str, label: str, unit: str) -> Line:
    """The line of a metric; a share as a percentage."""
    steps, values = series(rows, key)
    return Line(label, steps, values * (100 if unit.startswith("%") else 1))


def page(drawn: Sequence[Chart], title: str) -> str:
    """The HTML page of a run's charts."""
    return html.template(Path(__file__).parent / "pages" / "curves.html.jinja").render(
        charts=drawn, title=title
    )
