"""The documents' part of a report: samples, scores, and the five factors before and after."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain import worlds
from jaxtrain.apps.filters import corpus_stats, record_texts, report
from jaxtrain.apps.filters.plan import FilterRun, document_id, source_records
from jaxtrain.apps.filters.steps import TOO_SLOW

_DOCUMENTS = 2_000  # of the sources, and of the kept files, for the factors


def report_data(run: FilterRun, files: Sequence[Path]) -> dict[str, Any]:
    """{"samples", "scores", "factors"} of a filter run after its rejected.jsonl and kept files are written."""
    slow: set[str] = set()
    data = report.samples_and_scores(_read_lines(_lines(run.out / "rejected.jsonl"), slow))
    before, after = list(_source_documents(run, slow)), list(_kept_documents(files))
    return data | {"factors": {"before": _factors(run, before), "after": _factors(run, after)}}


def _read_lines(lines: Iterator[bytes], slow: set[str]) -> Iterator[Any]:
    """The parsed lines of rejected.jsonl; the ids of slow documents are added to `slow`."""
    for line in lines:
        row = json.loads(line)
        if row["rule"] == TOO_SLOW:
            slow.add(row["id"])
        yield row


def _source_documents(run: FilterRun, slow: set[str]) -> Iterator[Any]:
    """Documents of the sources, evenly spaced, without the slow ones."""
    total = sum(one["documents"] for one in run.plan["sources"])
    for i in range(len(run.plan["sources"])):
        records = source_records(str(run.out), i)
        share = max(1, round(_DOCUMENTS * len(records) / total))
        numbers = np.unique(np.linspace(0, len(records) - 1, min(share, len(records))).astype(int)).tolist()
        for start in range(0, len(numbers), 64):
            block = numbers[start : start + 64]
            for number, record in zip(block, records.many(block), strict=True):
                if document_id(records, number) not in slow:
                    yield record


def _kept_documents(files: Sequence[Path]) -> Iterator[Any]:
    """Documents of the kept files, evenly spaced."""
    total = sum(1 for path in files for _ in _lines(path))
    every = max(1, total // _DOCUMENTS)
    lines = (line for path in files for line in _lines(path))
    for i, line in enumerate(lines):
        if i % every == 0:
            yield json.loads(line)


def _factors(run: FilterRun, documents: Sequence[Any]) -> dict[str, Any]:
    texts, pairs = [], []
    for record in documents:
        parts = [
            p for p in record_texts.find_texts(record, run.cfg.source.text_field) if isinstance(p.text, str)
        ]
        texts.append("\n".join(part.text for part in parts))
        sides = ["\n".join(p.text for p in parts if p.is_target is target) for target in (False, True)]
        if all(sides):
            pairs.append((sides[0], sides[1]))
    world = worlds.world_of(one["label"].partition(":")[0] for one in run.plan["sources"])
    answer_key = corpus_stats.world_answer_key(world) if world else None
    return corpus_stats.quality_factors(texts, pairs=pairs, answer_key=answer_key)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
