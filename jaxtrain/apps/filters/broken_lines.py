"""The records of a source of files that could not be read, byte for byte."""

import json
from collections.abc import Iterator
from typing import Any

from jaxtrain.apps.filters import ledger
from jaxtrain.apps.filters.types import Finding
from jaxtrain.data.sources import Records


def count_bad_lines(records: Records) -> int:
    """The number of such records; a whole file that is empty is none."""
    return sum(1 for _ in rejected_lines(records))


def rejected_lines(records: Records) -> Iterator[dict[str, Any]]:
    """A ledger line for each; its record is {"line": text}, or {"line_base64": …} where it is not UTF-8."""
    if not records.listed:
        return
    with open(records.listed, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            where, reason = row.pop("where"), row.pop("reason")
            if row:
                kind = reason.partition(":")[0].partition(" (")[0].partition(" at byte")[0]
                findings = [(None, Finding(kind.lower().replace(" ", "_"), 1))]
                yield ledger.ledger_line(where, "drop", ledger.READ, findings, row)
