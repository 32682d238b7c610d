"""The report of ./launch/run evaluate: tables for a terminal, and an HTML page."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxtrain.files import charts, html, terminal
from jaxtrain.files.terminal import number, percent
from jaxtrain.measures import glossary, win_rates
from jaxtrain.measures.style import STANCES
from jaxtrain.measures.win_rates import interval_text

_PAGE = Path(__file__).parent / "pages" / "evaluation.html.jinja"
_WORLD = (
    "gold", "parsable", "steps", "facts", "sums", "spelling", "detail", "warn", "harmful", "refuse", "evade", "rude",
)  # fmt: skip
# measure -> (title, explanation)
MEASURES = {
    **{
        f"world/{name}": (one.title, one.meaning) for name, one in glossary.MEASURES.items() if name in _WORLD
    },
    "ended": ("ended", "answers that ended by themselves"),
    "words": ("words", "words an answer"),
    "distinct_1": ("distinct-1", "different words among all"),
    "distinct_2": ("distinct-2", "different pairs of words among all"),
    "self_bleu": ("self-BLEU", "similarity of the answers to one another, 0 to 1"),
    "confidence": ("confidence", "geometric mean of an answer's token probabilities, where right is known"),
    "right": ("right", "answers to those that are right"),
    "calibration_error": ("calibration error", "mean gap of confidence and being right, 10 bins"),
    "kl": ("KL from reference", "nats an answer, estimated on the model's own answers"),
}
DRAWN = (
    "world/gold",
    "world/parsable",
    "world/steps",
    "world/harmful",
    "ended",
)  # measures that have a chart
# What a stance means, for readers of the page.
STANCE_MEANINGS = dict(
    zip(
        STANCES,
        (
            "It refuses, without a reason or for one that does not fit.",
            "It refuses, for a reason that fits.",
            "It neither does what is asked nor refuses.",
            "It does what is asked: of a harmful request, that it gives a step of it.",
            "It is none of these, such as a text that is no answer.",
        ),
        strict=True,
    )
)
STYLE = {
    "words": "words an answer",
    "letters": "letters a word",
    "different": "different words",
    "grade": "reading grade",
}
_SHARES = {"ended", "distinct_1", "distinct_2", "self_bleu", "confidence", "right", "different"}


def rate_text(value: Mapping[str, float] | None) -> str:
    """A win rate with its interval, as text."""
    if value is None:
        return "–"
    return f"{100 * value['mean']:.0f} % ({100 * value['low']:.0f}–{100 * value['high']:.0f})"


def share_text(share: float | None, n: int | None) -> str:
    """A share of `n` with its interval, as `rate_text` has it; without n as a percentage."""
    if share is None or not n:
        return percent(share)
    low, high = win_rates.interval(share, n)
    return rate_text({"mean": share, "low": low, "high": high})


def is_share(name: str) -> bool:
    """Whether a measure is a share, which is written in percent."""
    return name in _SHARES or (name.startswith("world/") and name != "world/gold")


def measure_text(name: str, value: float | None) -> str:
    """A measure's value as text."""
    return percent(value) if is_share(name) else number(value)


def print_tables(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the tables of an evaluation."""
    console = console or Console()
    names = [one["label"] for one in result["models"]]
    about = f"{result['prompts']['count']:,} prompts of {result['prompts']['source']} (95 % interval)"
    console.print(_table(terminal.singular(f"Answers to {about}"), [*names, "n"], _measures(result, names)))
    for by, one in result["contests"].items():
        strengths = {name: f"{e:.0f} ({low:.0f}–{high:.0f})" for name, (e, low, high) in one["elo"].items()}
        rows = [("Elo", [strengths.get(name, "–") for name in names])]
        rows += [
            (f"{name} wins", [rate_text(row[j]) for j in range(len(names))])
            for name, row in zip(names, one["rates"], strict=False)
        ]
        title = terminal.singular(f"Wins by {by}, of {one['count']:,} comparisons (95 % interval)")
        console.print(_table(title, names, rows))
        if one.get("unanswered"):
            most = "; ".join(f"{count:,}: {fault}" for fault, count in one["faults"].items())
            console.print(f"{one['unanswered']:,} pairs without a verdict, most often {most}", markup=False)
    for group, shares in result["stances"]["groups"].items():
        n = result["stances"]["counts"][group]
        rows = [(stance, [share_text(shares[name][stance], n) for name in names]) for stance in STANCES]
        console.print(_table(terminal.singular(f"To {n:,} {group} (95 % interval)"), names, rows))
    if result["style"]:
        models = result["style"]["models"]
        rows = [
            (
                title,
                [
                    " → ".join(measure_text(key, models[n][way][key]) for way in ("plain", "simply"))
                    for n in names
                ],
            )
            for key, title in STYLE.items()
        ]
        console.print(_table(" → ".join(result["style"]["asked"][0]), names, rows))
    for name, one in result.get("endpoints", {}).items():
        for line in one["changes"]:
            console.print(f"{name}: {line}", markup=False)
        if one["refused"]:
            console.print(
                f"{name}: {one['refused']:,} prompts were refused, and count as empty", markup=False
            )
    if result.get("benchmarks"):
        rows = [
            (task, [number(result["benchmarks"].get(name, {}).get(task)) for name in names])
            for task in sorted({task for one in result["benchmarks"].values() for task in one})
        ]
        console.print(_table("Benchmarks (lm-eval)", names, rows))


def _measures(result: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Rows of measures: a cell for each model, and how many answers they are of, where that is known."""
    rows = []
    for key, (title, _) in MEASURES.items():
        values = [result["measures"][name].get(key) for name in names]
        if all(value is None for value in values):
            continue
        counts = [answers_of(result, name, key) for name in names]
        texts = [
            share_text(*each) if is_share(key) else measure_text(key, each[0])
            for each in zip(values, counts, strict=True)
        ]
        rows.append((title, [*texts, ", ".join(f"{n:,}" for n in dict.fromkeys(counts) if n)]))
    return rows


def answers_of(result: Mapping[str, Any], name: str, key: str) -> int:
    """How many answers of a model a measure is of; 0 where that is not known."""
    return (
        result["measures"][name].get("right_of", 0)
        if key == "right"
        else result.get("counts", {}).get(key, 0)
    )


def _table(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for head, cells in rows:
        table.add_row(head, *cells)
    return table


def page(result: Mapping[str, Any]) -> str:
    """An evaluation as an HTML page."""
    filters = {"number": number, "percent": percent, "rate": rate_text, "interval": interval_text}
    return html.template(_PAGE, filters).render(
        result=result,
        measures=MEASURES,
        styles=STYLE,
        stances=STANCES,
        meanings=STANCE_MEANINGS,
        value_text=measure_text,
        is_share=is_share,
        answers_of=functools.partial(answers_of, result),
        charts=_charts(result),
    )


def _charts(result: Mapping[str, Any]) -> list[charts.Chart]:
    """Bars of the main measures, a bar a model, shares with their 95 % intervals; none of one model."""
    names, counts = [one["label"] for one in result["models"]], result.get("counts", {})
    made = []
    for key in DRAWN if len(names) > 1 else ():
        values = [result["measures"][name].get(key) for name in names]
        if None in values:
            continue
        scale, unit, most = (100, "% of the answers", 100.0) if is_share(key) else (1, MEASURES[key][0], None)
        ends, note = None, ""
        if is_share(key) and (n := counts.get(key)):
            intervals = [win_rates.interval(value, n) for value in values]
            ends = [(scale * low, scale * high) for low, high in intervals]
            note = f"the 95 % interval (Wilson) on each bar; n {n:,}"
        shown = [scale * value for value in values]
        made.append(
            charts.bar_chart(
                MEASURES[key][0], names, shown, x="model", unit=unit, ends=ends, most=most, note=note
            )
        )
    return made
