"""Scored completions as JSON lines in the run's samples, and as a table for a terminal."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.files import atomic, terminal
from jaxtrain.rl.episode_rows import PREFIX
from jaxtrain.rl.overoptimisation import GOLD, TRAINED, WATCHED
from jaxtrain.rl.scoring import ScoredBatch
from jaxtrain.stages.session import Session
from jaxtrain.train import loop
from jaxtrain.types import TrainState

FOLDER = "rollouts"  # in the run's samples/
LENGTH = "completions/mean_length"  # the metric of tokens
_NUMBERS = {"score": TRAINED, "kl": "objective/kl", "watched": WATCHED, "gold": GOLD}


def with_completion_table(session: Session, sample: loop.Sample, shown: int = 4) -> loop.Sample:
    """A sample function whose text begins with a table of a few completions of the last iteration."""

    def both(state: TrainState, step: int) -> tuple[str, Mapping[str, float]]:
        text, numbers = sample(state, step)
        files = sorted((session.path / "samples" / FOLDER).glob("*.jsonl")) if session.primary else []
        return (f"{_shown(files[-1], shown)}\n{text}" if files else text), numbers

    return both


def _shown(file: Path, count: int) -> str:
    """The first completions of a file as a table, or a line that it is damaged: a finished run is shown again, too."""
    try:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
        return _table(rows, file.name)
    except (ValueError, LookupError, TypeError) as error:
        return f"{file} is damaged, so that its completions are not shown: {error}\n"


def _table(rows: list[dict[str, Any]], name: str) -> str:
    """Completions with their numbers, as a table that fits a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numbers = [key for key in _NUMBERS if key in rows[0]]
    table = Table(title=f"completions of the last iteration ({FOLDER}/{name})", title_justify="left")
    for column in ("prompt", "completion"):
        table.add_column(column, overflow="fold", ratio=1 if column == "prompt" else 2)
    for key in numbers:
        table.add_column(key, justify="right", no_wrap=True)
    for row in rows:
        mark = "" if row["ended"] else " …"
        texts = [Text(row["prompt"]), Text(row["completion"] + mark)]
        table.add_row(*texts, *("–" if row[key] is None else f"{row[key]:.2f}" for key in numbers))
    console = Console(width=terminal.WIDTH, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


def rollout_lines(batch: ScoredBatch, metrics: Mapping[str, np.ndarray]) -> str:
    """The completions with their numbers as JSON lines."""
    functions = {
        key.split("/", 1)[1].removesuffix("/mean"): key for key in batch.stats if key.startswith("rewards/")
    }
    out = []
    for i, (prompt, text) in enumerate(batch.texts):
        row = {"prompt": prompt, "completion": text, "ended": bool(batch.ended[i])}
        row |= {name: _rounded(metrics[key][i]) for name, key in _NUMBERS.items() if key in metrics}
        row |= {"tokens": int(batch.stats[LENGTH][i])} if LENGTH in batch.stats else {}
        row |= {PREFIX: own} if (own := _of_environment(batch, i)) else {}
        row |= (
            {"rewards": {name: _rounded(batch.stats[key][i]) for name, key in functions.items()}}
            if functions
            else {}
        )
        row |= (
            {"extra": {name: plain(values[i]) for name, values in batch.extra.items()}} if batch.extra else {}
        )
        row |= {"turns": batch.turns[i]} if batch.turns is not None else {}
        out.append(atomic.json_line(row))
    return "".join(out)


def _of_environment(batch: ScoredBatch, i: int) -> dict[str, float]:
    """What an environment reports of an episode."""
    names = {name.partition("/")[2]: name for name in batch.stats if name.startswith(f"{PREFIX}/")}
    values = {name: _rounded(batch.stats[key][i]) for name, key in names.items()}
    return {name: value for name, value in values.items() if value is not None}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def plain(value: Any) -> Any:
    """A value that JSON has; another one as text."""
    return value if isinstance(value, str | int | float | bool | None) else str(value)
