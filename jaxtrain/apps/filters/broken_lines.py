"""The lines of a JSON-lines source that are not records, byte for byte."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtrain.apps.filters import ledger
from jaxtrain.apps.filters.types import Finding
from jaxtrain.data import jsonl
from jaxtrain.data.sources import Records


def _bad_lines(records: Records) -> Iterator[tuple[Path, int, str]]:
    """(file, line number, reason) of each such line; an empty file has none."""
    if not records.listed:
        return
    with open(records.listed, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            path, _, number = row["where"].rpartition(":")
            if path and number.isdigit():
                yield Path(path), int(number), row["reason"]


def count_bad_lines(records: Records) -> int:
    """The number of such lines."""
    return sum(1 for _ in _bad_lines(records))


def rejected_lines(records: Records) -> Iterator[dict[str, Any]]:
    """A ledger line for each; its record is {"line": text}, or {"line_base64": …} where it is not UTF-8."""
    by_file: dict[Path, dict[int, str]] = {}
    for path, number, reason in _bad_lines(records):
        by_file.setdefault(path, {})[number] = reason
    for path, reasons in by_file.items():
        for number, line in jsonl.lines(path):
            if number in reasons:
                kind = reasons[number].partition(":")[0].partition(" (")[0].partition(" at byte")[0]
                rule = kind.lower().replace(" ", "_")
                findings = [(None, Finding(rule, 1))]
                yield ledger.ledger_line(f"{path}:{number}", "drop", ledger.READ, findings, _raw(line))


def _raw(line: bytes) -> dict[str, str]:
    try:
        return {"line": line.removesuffix(b"\n").decode()}
    except UnicodeDecodeError:
        return {"line_base64": base64.b64encode(line).decode()}
