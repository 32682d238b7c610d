"""Reports: tables for a terminal, and pages that open from a disk, in light and dark, without a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxtrain.files import html
from jaxtrain.files.terminal import number, percent
from jaxtrain.measures.style import STANCES

# measure -> (title, what it means)
MEASURES = {
    "world/gold": ("gold reward", "Tinytown's true reward, mean over the prompts"),
    "world/parsable": ("parsable", "share of answers in the world's language, sums left out"),
    "world/steps": ("steps right", "how-to questions with the right steps"),
    "world/facts": ("facts right", "questions about people answered right"),
    "world/sums": ("sums right", "additions that training held out"),
    "world/spelling": ("spelling right", "questions about words answered right"),
    "world/detail": ("detailed", "how-to answers with all steps in order"),
    "world/warn": ("warns", "risky how-tos answered with a warning"),
    "world/harmful": ("harmful", "harmful requests that are given steps"),
    "world/refuse": ("refuses, explained", "harmful requests refused for a reason that fits"),
    "world/evade": ("evades", "harmful requests that are evaded"),
    "world/rude": ("rude", "answers with an insult"),
    "ended": ("ended", "answers that ended by themselves"),
    "words": ("words", "words an answer"),
    "distinct_1": ("distinct-1", "different words among all"),
    "distinct_2": ("distinct-2", "different pairs of words among all"),
    "self_bleu": ("self-BLEU", "likeness of the answers to one another, 0 to 1"),
    "confidence": ("confidence", "geometric mean of an answer's token probabilities, where right is known"),
    "right": ("right", "answers to those that are right"),
    "calibration_error": ("calibration error", "mean gap of confidence and being right, 10 bins"),
    "kl": ("KL from reference", "nats an answer, estimated on the model's own answers"),
}
STYLE = {
    "words": "words an answer",
    "letters": "letters a word",
    "different": "different words",
    "grade": "reading grade",
}
_SHARES = {"ended", "distinct_1", "distinct_2", "self_bleu", "confidence", "right", "different"}


def rate_text(value: Mapping[str, float] | None) -> str:
    """A win rate with its interval."""
    if value is None:
        return "–"
    return f"{100 * value['mean']:.0f} % ({100 * value['low']:.0f}–{100 * value['high']:.0f})"


def measure_text(name: str, value: float | None) -> str:
    """A measure's value."""
    share = name in _SHARES or (name.startswith("world/") and name != "world/gold")
    return percent(value) if share else number(value)


def print_tables(found: Mapping[str, Any], console: Console | None = None) -> None:
    """The tables of an evaluation."""
    console = console or Console()
    names = [one["label"] for one in found["models"]]
    rows = [
        (title, [measure_text(key, found["measures"][name].get(key)) for name in names])
        for key, (title, _) in MEASURES.items()
        if any(found["measures"][name].get(key) is not None for name in names)
    ]
    about = f"{found['prompts']['count']:,} prompts of {found['prompts']['source']}"
    console.print(_table(f"Answers to {about}", names, rows))
    for by, one in found["contests"].items():
        strengths = {name: f"{e:.0f} ({low:.0f}–{high:.0f})" for name, (e, low, high) in one["elo"].items()}
        rows = [("Elo", [strengths.get(name, "–") for name in names])]
        rows += [
            (f"{name} wins", [rate_text(row[j]) for j in range(len(names))])
            for name, row in zip(names, one["rates"], strict=False)
        ]
        console.print(_table(f"Wins by {by}, of {one['count']:,} comparisons (95 % interval)", names, rows))
    for group, shares in found["stances"]["groups"].items():
        rows = [(stance, [percent(shares[name][stance]) for name in names]) for stance in STANCES]
        console.print(_table(f"To {found['stances']['counts'][group]:,} {group}", names, rows))
    if found["style"]:
        told = found["style"]["models"]
        rows = [
            (title, [f"{number(told[n]['plain'][key])} → {number(told[n]['simply'][key])}" for n in names])
            for key, title in STYLE.items()
        ]
        console.print(_table(" → ".join(found["style"]["asked"][0]), names, rows))
    if found.get("benchmarks"):
        rows = [
            (task, [number(found["benchmarks"].get(name, {}).get(task)) for name in names])
            for task in sorted({task for one in found["benchmarks"].values() for task in one})
        ]
        console.print(_table("Benchmarks (lm-eval)", names, rows))


def _table(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    made.add_column("")
    for name in names:
        made.add_column(name, justify="right")
    for head, cells in rows:
        made.add_row(head, *cells)
    return made


def page(name: str, found: Mapping[str, Any]) -> str:
    """The text of a page of experiments/pages."""
    file = Path(__file__).parent / "pages" / f"{name}.html.jinja"
    made = html.template(file, {"number": number, "percent": percent, "rate": rate_text})
    return made.render(found=found, measures=MEASURES, styles=STYLE, stances=STANCES, shown=measure_text)
