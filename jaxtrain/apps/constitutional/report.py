"""The audit of ./launch/run constitutional: audit.json and audit.html, of what the phases have left so far."""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxtrain import config
from jaxtrain.apps.constitutional import audit
from jaxtrain.apps.constitutional.principles import Constitution
from jaxtrain.apps.evals import report as evals_report
from jaxtrain.files import atomic, terminal

MODELS = "models.json"
REPORT = "report.json"  # of a phase that is done


def write(folder: Path, constitution: Constitution) -> dict[str, Any]:
    """Reads the phases' files in `folder`; returns what it writes."""
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
    atomic.write_text(folder / "audit.html", evals_report.page("audit", report))
    terminal.note([*_told(report), ("audit", str(folder / "audit.html"))])
    return report


def _faults(folder: Path) -> dict[str, int]:
    return json.loads((folder / REPORT).read_text(encoding="utf-8"))["faults"]


def _told(report: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for row in report.get("rounds", ()):
        if "harmful" in row:
            lines.append(
                (f"round {row['round']}", f"harmful {row['harmful']:.3f}, parsable {row['parsable']:.3f}")
            )
    for name, row in report.get("models", {}).items():
        said = ", ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
        lines.append((name, said))
    return lines
