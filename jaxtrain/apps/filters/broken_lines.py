"""The lines of a JSON-lines source that are no records, as they stand in the file."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtrain.apps.filters import ledger
from jaxtrain.apps.filters.types import Finding
from jaxtrain.data import jsonl
from jaxtrain.data.sources import Records


def _listed(records: Records) -> Iterator[tuple[Path, int, str]]:
    """(file, line, reason) of the lines; an empty file has none."""
    if not records.listed:
        return
    with open(records.listed, encoding="utf-8") as file:
        for line in file:
            said = json.loads(line)
            path, _, number = said["where"].rpartition(":")
            if path and number.isdigit():
                yield Path(path), int(number), said["reason"]


def count(records: Records) -> int:
    """How many there are."""
    return sum(1 for _ in _listed(records))


def lines(records: Records) -> Iterator[dict[str, Any]]:
    """A line of rejected.jsonl for each; its record is {"line": text}, or {"line_base64": …} where it is no UTF-8."""
    by_file: dict[Path, dict[int, str]] = {}
    for path, number, reason in _listed(records):
        by_file.setdefault(path, {})[number] = reason
    for path, wrong in by_file.items():
        for number, line in jsonl.lines(path):
            if number in wrong:
                kind = wrong[number].partition(":")[0].partition(" (")[0].partition(" at byte")[0]
                rule = kind.lower().replace(" ", "_")
                found = [(None, Finding(rule, 1))]
                yield ledger.entry(f"{path}:{number}", "drop", ledger.READ, found, _raw(line))


def _raw(line: bytes) -> dict[str, str]:
    try:
        return {"line": line.removesuffix(b"\n").decode()}
    except UnicodeDecodeError:
        return {"line_base64": base64.b64encode(line).decode()}
