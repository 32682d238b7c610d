"""The audit of ./launch/run constitutional: audit.json and audit.html, of the phases finished so far."""

import collections
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.constitutional import audit
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.files import atomic, html, terminal

MODELS = "models.json"
REPORT = "report.json"  # of a finished phase
_PAGE = Path(__file__).parent / "pages" / "audit.html.jinja"


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
    if (folder / "revise" / REPORT).exists():
        rows = atomic.read_jsonl(folder / "revise" / "rounds.jsonl")
        report |= {
            "rounds": audit.by_round(rows),
            "revised": audit.by_principle(rows),
            "examples": audit.examples(rows),
        }
        faults.update(_faults(folder / "revise"))
    if (folder / "compare" / REPORT).exists():
        report["labels"] = audit.label_measures(atomic.read_jsonl(folder / "compare" / "labels.jsonl"))
        faults.update(_faults(folder / "compare"))
    if (folder / MODELS).exists():
        report["models"] = json.loads((folder / MODELS).read_text(encoding="utf-8"))
    report["faults"] = dict(sorted(faults.items()))
    atomic.write_text(folder / "audit.json", config.dumps(report) + "\n")
    atomic.write_text(folder / "audit.html", page(report))
    terminal.note([*_summary(report), ("audit", str(folder / "audit.html"))])
    return report


def _faults(folder: Path) -> dict[str, int]:
    return json.loads((folder / REPORT).read_text(encoding="utf-8"))["faults"]


def page(report: Mapping[str, Any]) -> str:
    """The audit as an HTML page."""
    return html.template(_PAGE).render(report=report)


def _summary(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [
        (f"round {row['round']}", f"harmful {row['harmful']:.3f}, parsable {row['parsable']:.3f}")
        for row in report.get("rounds", ())
        if "harmful" in row
    ]
    for name, row in report.get("models", {}).items():
        shares = ", ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
        lines.append((name, shares))
    return lines
