"""The picture of an on-policy run: score against a watched reward or gold, KL, entropy, length, capped share."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtrain.files import svg_plot
from jaxtrain.files.svg_plot import Line, Mark, Panel
from jaxtrain.rl.overoptimisation import GOLD, TRAINED, series, turn_of, watched_metrics

FILE = "curves.svg"  # in the workdir
STEP = "step (updates)"
# (title, metric, label, unit)
PANELS = (
    ("KL from the reference", "objective/kl", "KL", "nats a completion"),
    ("Entropy of the policy", "objective/entropy", "entropy", "nats a completion"),
    ("Length of completions", "completions/mean_length", "mean length", "tokens"),
    ("Scores above the cap", "objective/scores_capped", "capped", "share of completions"),
    (
        "Completions without an end",
        "completions/clipped_ratio",
        "cut off at --max_new",
        "share of completions",
    ),
)


def svg(rows: Sequence[Mapping[str, Any]], title: str = "", best: int | None = None, updates: int = 1) -> str:
    """The curves in the lines of a metrics.jsonl, as an <svg> element.

    best: the step of the best checkpoint. updates: of an iteration, as `turn_of` has them.
    """
    name = next(iter(watched_metrics(rows)), "")
    lines, units = [Line("score", *series(rows, TRAINED))], ["score"]
    if name:
        label = "gold" if name == GOLD else "watched reward"
        lines.append(Line(label, *series(rows, name)))
        units.append(label)
    heading = f"Score and {units[1]}" if name else "Score of the trained reward"
    panels = [Panel(heading, tuple(lines), tuple(units))]
    panels += [
        Panel(head, (Line(label, *series(rows, key)),), (unit,), 0.0) for head, key, label, unit in PANELS
    ]
    turn = turn_of(rows, updates)
    marks = [Mark(turn.step, f"turn, step {turn.step}")] if turn else []
    if best is not None and (turn is None or best != turn.step):
        marks.append(Mark(best, f"best, step {best}"))
    return svg_plot.figure(panels, x_label=STEP, title=title, marks=marks)
