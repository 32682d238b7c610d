"""The audit of ./launch/run constitutional: audit.json and audit.html, of the phases finished so far.

The report of a phase has the checksums of its files, models.json has its own.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.constitutional import audit
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.config import ConfigError
from jaxtrain.files import atomic, charts, checksums, html, terminal
from jaxtrain.measures import win_rates

MODELS = "models.json"
REPORT = "report.json"  # of a finished phase
_PAGE = Path(__file__).parent / "pages" / "audit.html.jinja"
_DIGITS = 1  # of a percentage
percent = functools.partial(terminal.percent, digits=_DIGITS)


def write(folder: Path, constitution: Constitution) -> dict[str, Any]:
    """The audit of the phases' files in `folder`, which it writes there."""
    principles = [dataclasses.asdict(one) for one in constitution.principles]
    report: dict[str, Any] = {
        "constitution": {
            "name": constitution.name,
            "fingerprint": constitution.fingerprint,
            "principles": principles,
        }
    }
    faults: collections.Counter = collections.Counter()
    if revised := read_phase(folder / "revise"):
        rows = atomic.read_jsonl(folder / "revise" / "rounds.jsonl")
        report |= {
            "rounds": audit.by_round(rows),
            "revised": audit.by_principle(rows),
            "examples": audit.examples(rows),
        }
        faults.update(revised["faults"])
    if compared := read_phase(folder / "compare"):
        report["labels"] = audit.label_measures(atomic.read_jsonl(folder / "compare" / "labels.jsonl"))
        faults.update(compared["faults"])
    if (folder / MODELS).exists():
        report["models"] = _read(folder / MODELS, "remove it, and --phase=all measures the models again")
    report["faults"] = dict(sorted(faults.items()))
    atomic.write_text(folder / "audit.json", config.dumps(report) + "\n")
    atomic.write_text(folder / "audit.html", page(report))
    terminal.note([*_summary(report), ("audit", str(folder / "audit.html"))])
    return report


def read_phase(folder: Path) -> dict[str, Any] | None:
    """The report of a finished phase, None of an unfinished one.

    Raises ConfigError where it, or a file that it lists, differs from what was written.
    """
    path = folder / REPORT
    if not path.exists():
        return None
    remedy = f"restore it from a copy, or remove {path}, and the phase runs again"
    summary = _read(path, remedy)
    for name, expected in summary.get("files", {}).items():  # an earlier release has none
        file = folder / name
        if not file.is_file():
            raise ConfigError(f"{file} is missing: {remedy}")
        if checksums.of_file(file) != expected:
            raise ConfigError(f"{file} differs from what was written (SHA-256): {remedy}")
    return summary


def write_phase(folder: Path, summary: Mapping[str, Any], files: Sequence[str]) -> None:
    """Writes the report of a finished phase, with the checksums of its files."""
    sums = {name: checksums.of_file(folder / name) for name in files}
    atomic.write_sealed(folder / REPORT, {**summary, "files": sums})


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        record = atomic.read_sealed(path)
        if not isinstance(record, dict):
            raise ValueError("it is not a record")
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): {remedy}") from error
    return record


def page(report: Mapping[str, Any]) -> str:
    """The audit as an HTML page."""
    filters = {"percent": percent, "interval": functools.partial(win_rates.interval_text, digits=_DIGITS)}
    return html.template(_PAGE, filters).render(report=report, chart=_harm_chart(report.get("rounds") or []))


def _harm_chart(rounds: Sequence[Mapping[str, Any]]) -> charts.Chart | None:
    """Harmful answers by round of revision, with their 95 % intervals; None where no judge knows them."""
    known = [row for row in rounds if "harmful" in row]
    if not known:
        return None
    x, shares = [row["round"] for row in known], [100 * row["harmful"] for row in known]
    ends = [win_rates.interval(row["harmful"], row["answers"]) for row in known]
    low, high = ([100 * end[side] for end in ends] for side in (0, 1))
    title = "Harmful answers: an insult, or steps of a harmful request"
    line = charts.Line("harmful answers", x, shares, low, high)
    note = "the band is the 95 % interval (Wilson)"
    return charts.line_chart(
        title, [line], x="round of revision", units=["% of the answers"], least=0.0, note=note
    )


def _summary(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [
        (f"round {row['round']}", f"{_share(row, 'harmful')}, {_share(row, 'parsable')}")
        for row in report.get("rounds", ())
        if "harmful" in row
    ]
    for name, row in report.get("models", {}).items():
        shares = ", ".join(_share(row, key) for key, value in row.items() if isinstance(value, float))
        lines.append((name, shares))
    return lines


def _share(row: Mapping[str, Any], key: str) -> str:
    """A share of a row by name, with its interval."""
    text = win_rates.interval_text(row[key], row.get(f"{key}_of", row.get("answers")), digits=_DIGITS)
    return f"{key} {percent(row[key])}" + f" ({text})" * bool(text)
