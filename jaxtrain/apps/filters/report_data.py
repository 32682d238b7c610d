"""What a report says of the documents themselves: samples, scores, and the five factors before and after."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.apps.filters import corpus_stats, record_texts, report
from jaxtrain.apps.filters.plan import FilterRun, name_of, records_of
from jaxtrain.apps.filters.steps import TOO_SLOW

_DOCUMENTS = 2_000  # that the factors are measured on


def report_data(run: FilterRun, files: Sequence[Path]) -> dict[str, Any]:
    """{"samples", "scores", "factors"} of a filtering whose rejected.jsonl and kept files are there."""
    slow: set[str] = set()
    gathered = report.gather(_noting(_lines(run.out / "rejected.jsonl"), slow))
    before, after = list(_read(run, slow)), list(_kept(files))
    return gathered | {"factors": {"before": _measured(run, before), "after": _measured(run, after)}}


def _noting(lines: Iterator[bytes], slow: set[str]) -> Iterator[Any]:
    """The lines read; `slow` gets the names of documents that no measure should wait for."""
    for line in lines:
        read = json.loads(line)
        if read["rule"] == TOO_SLOW:
            slow.add(read["id"])
        yield read


def _read(run: FilterRun, slow: set[str]) -> Iterator[Any]:
    """Documents of the sources, evenly spaced, but for the slow ones."""
    total = sum(one["documents"] for one in run.plan["sources"])
    for i in range(len(run.plan["sources"])):
        found = records_of(str(run.out), i)
        share = max(1, round(_DOCUMENTS * len(found) / total))
        numbers = np.unique(np.linspace(0, len(found) - 1, min(share, len(found))).astype(int)).tolist()
        for start in range(0, len(numbers), 64):
            block = numbers[start : start + 64]
            for number, record in zip(block, found.many(block), strict=True):
                if name_of(found, number) not in slow:
                    yield record


def _kept(files: Sequence[Path]) -> Iterator[Any]:
    """Documents of the kept files, evenly spaced."""
    total = sum(1 for path in files for _ in _lines(path))
    every = max(1, total // _DOCUMENTS)
    lines = (line for path in files for line in _lines(path))
    for i, line in enumerate(lines):
        if i % every == 0:
            yield json.loads(line)


def _measured(run: FilterRun, documents: Sequence[Any]) -> dict[str, Any]:
    texts, pairs = [], []
    for record in documents:
        found = [p for p in record_texts.parts(record, run.cfg.source.text_field) if isinstance(p.text, str)]
        texts.append("\n".join(part.text for part in found))
        sides = ["\n".join(p.text for p in found if p.learnt is learnt) for learnt in (False, True)]
        if all(sides):
            pairs.append((sides[0], sides[1]))
    world = all(one["label"].startswith("tinytown:") for one in run.plan["sources"])
    return corpus_stats.measure(texts, pairs=pairs, known=corpus_stats.tinytown if world else None)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
