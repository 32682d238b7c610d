"""The tasks of a filtering: what each reads of earlier ones, and the files that it writes into its folder."""

import itertools
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.apps.filters import (
    broken_lines,
    decontaminate,
    fingerprints,
    ledger,
    near_duplicates,
    record_texts,
    steps,
)
from jaxtrain.apps.filters.ledger import Tally
from jaxtrain.apps.filters.plan import WORK, FilterRun, name_of, records_of
from jaxtrain.apps.filters.types import Finding
from jaxtrain.data.sources import Records

_READ = 512  # most records read at once
_HELD = 16_000_000  # characters of them, about
_EXACT, _NEAR = 1, 2  # kinds of duplicates
_KINDS = {_EXACT: "exact", _NEAR: "near"}


def check(run: FilterRun, rank: int, folder: Path, *, scorer: steps.Scorer | None) -> None:
    """Runs the steps on a shard: kept.jsonl, rejected.jsonl, fingerprints, counts."""
    source, start, stop = run.plan["shards"][rank]
    found = records_of(str(run.out), source)
    table = (
        decontaminate.NgramTable(run.out / WORK / "evals.npy", run.cfg.decontaminate.decontaminate_ngram)
        if run.cfg.decontaminate.decontaminate
        else None
    )
    tally = Tally()
    judge = steps.FilterPipeline(run.cfg, steps.active(run.cfg, table, scorer), tally)
    last = "near" if run.near() else "exact"
    with (
        (folder / "kept.jsonl").open("wb") as kept,
        (folder / "rejected.jsonl").open("wb") as rejected,
        fingerprints.FingerprintWriter(folder, run.near()) as prints,
    ):
        for begin, block in _blocks(found, start, stop):
            verdicts = judge((name_of(found, i), record) for i, record in enumerate(block, begin))
            for verdict in verdicts:
                rejected.writelines(map(record_texts.dumps, verdict.lines))
            left = [(i, one) for i, one in enumerate(verdicts, begin) if one.record is not None]
            kept.writelines(record_texts.dumps(one.record) for _, one in left)
            began = time.perf_counter()
            for number, one in left:
                prints.add(number, one.texts)
            tally.seconds[last] += time.perf_counter() - began
    tally.save(folder / "tally.json")


def _blocks(found: Records, start: int, stop: int) -> Iterator[tuple[int, list[Any]]]:
    """(first number, records) of a stretch; few long records are read at once, and many short ones."""
    size = 16
    while start < stop:
        block = found.many(range(start, min(start + size, stop)))
        yield start, block
        start += len(block)
        mean = sum(len(str(one)) for one in block[:16]) / len(block[:16])
        size = int(min(_READ, max(1, _HELD / mean)))


def reject(run: FilterRun, rank: int, folder: Path) -> None:
    """Lists a source's lines that are no records."""
    tally = Tally()
    with (folder / "rejected.jsonl").open("wb") as file:
        for line in broken_lines.lines(records_of(str(run.out), rank)):
            tally.read += 1
            tally.seen[ledger.READ] += 1
            tally.note(ledger.READ, [line["rule"]], "drop")
            file.write(record_texts.dumps(line))
    tally.save(folder / "tally.json")


def _shards(run: FilterRun) -> near_duplicates.FingerprintShards:
    return near_duplicates.FingerprintShards.of(
        [run.folder("check", i) for i in range(len(run.plan["shards"]))]
    )


def exact(run: FilterRun, rank: int, folder: Path) -> None:
    """Finds the first copy of each document."""
    began, shards = time.perf_counter(), _shards(run)
    first = (
        np.full(len(shards), -1, np.int64)
        if run.cfg.steps.exact == "off"
        else fingerprints.first_copies(shards.column("digests.npy"))
    )
    np.save(folder / "first.npy", first)
    Tally(seconds=_seconds("exact", began)).save(folder / "tally.json")


def _seconds(step: str, began: float) -> Any:
    tally = Tally()
    tally.seconds[step] = time.perf_counter() - began
    return tally.seconds


def pairs(run: FilterRun, rank: int, folder: Path) -> None:
    """Finds a band's candidates."""
    began, shards = time.perf_counter(), _shards(run)
    part = near_duplicates.takes_part(shards, np.load(run.folder("exact") / "first.npy"), run.cfg.near)
    found, count = run.near(), len(next(one for one in run.phases() if one.name == "pairs").sizes)
    for band in range(rank, found.bands, count):
        np.save(folder / f"{band:04d}.npy", near_duplicates.pairs(shards, part, run.cfg.near, band))
    Tally(seconds=_seconds("near", began)).save(folder / "tally.json")


def remaining_copies(run: FilterRun, rank: int, folder: Path) -> None:
    """Settles which copy is kept: its number or -1, of which kind the duplicate is, and how alike they are."""
    began, shards = time.perf_counter(), _shards(run)
    first = np.load(run.folder("exact") / "first.npy")
    leader, score = np.full(len(shards), -1, np.int64), np.zeros(len(shards), np.float32)
    if found := run.near():
        bands = sorted((run.out / WORK / "pairs").glob("*/*.npy"))
        leader, score = near_duplicates.leaders(shards, bands, run.cfg.near)
    copies = first >= 0
    kind = np.where(copies, _EXACT, np.where(leader >= 0, _NEAR, 0)).astype(np.uint8)
    of_first = leader[first[copies]]  # the first copy may itself be a near duplicate
    leader[copies] = np.where(of_first >= 0, of_first, first[copies])
    score[copies] = 1.0
    for name, array in (("leader", leader), ("kind", kind), ("score", score)):
        np.save(folder / f"{name}.npy", array)
    Tally(seconds=_seconds("near" if found else "exact", began)).save(folder / "tally.json")


def write(run: FilterRun, rank: int, folder: Path) -> None:
    """Writes what a shard keeps, and what of it was a duplicate."""
    shards, source = _shards(run), run.plan["shards"][rank][0]
    found, tally = records_of(str(run.out), source), Tally()
    start, stop = shards.starts[rank : rank + 2].tolist()
    leader, kind, score = (
        np.load(run.folder("near") / f"{name}.npy", mmap_mode="r")[start:stop]
        for name in ("leader", "kind", "score")
    )
    first = np.load(run.folder("exact") / "first.npy", mmap_mode="r")[start:stop]
    numbers = np.load(run.folder("check", rank) / "numbers.npy")
    shutil.copyfile(run.folder("check", rank) / "rejected.jsonl", folder / "rejected.jsonl")
    on, at = [name for name in _KINDS.values() if _on(run, name)], 0
    with (
        (run.folder("check", rank) / "kept.jsonl").open("rb") as lines,
        (folder / "kept.jsonl").open("wb") as kept,
        (folder / "rejected.jsonl").open("ab") as rejected,
    ):
        while block := list(itertools.islice(lines, _READ)):
            dropped = [i for i in range(at, at + len(block)) if kind[i]]
            mine = _originals([(found, int(numbers[i])) for i in dropped])
            same = [_place(run, shards, int(first[i] if kind[i] == _EXACT else leader[i])) for i in dropped]
            truth = _originals(same) if any(isinstance(one.get("defect"), str) for one in mine) else mine
            for i, record, copy, original in zip(dropped, mine, same, truth, strict=True):
                step, copy_kept = _KINDS[int(kind[i])], _place(run, shards, int(leader[i]))
                line = ledger.entry(
                    name_of(found, int(numbers[i])), "drop", step, [(None, Finding(_RULE[step], float(score[i])))],
                    record, kept=name_of(*copy_kept), **({"copy_of": name_of(*copy)} if copy != copy_kept else {}),
                )  # fmt: skip
                rejected.write(record_texts.dumps(line))
                tally.note(step, [_RULE[step]], "drop")
                _label(tally, on[: on.index(step) + 1], record)
                if isinstance(record.get("defect"), str):
                    tally.label(step, record["defect"] or "clean", "found")
                    if _alike(run, record, original, step):
                        tally.label(step, record["defect"] or "clean", "right")
            for i, line in enumerate(block, at):
                if not kind[i]:
                    tally.kept += 1
                    kept.write(line)
                    _label(tally, on, json.loads(line) if b'"defect"' in line else {})
            at += len(block)
    for name in on:
        tally.seen[name] = at if name == on[0] else at - tally.dropped["exact"]
    tally.save(folder / "tally.json")


_RULE = {"exact": "same_text", "near": "similar_words"}


def _on(run: FilterRun, step: str) -> bool:
    return run.cfg.steps.exact != "off" if step == "exact" else run.near() is not None


def _label(tally: Tally, reached: Sequence[str], record: Any) -> None:
    label = record.get("defect")
    if isinstance(label, str):
        for name in reached:
            tally.label(name, label or "clean", "reached")


def _originals(places: Sequence[tuple[Records, int]]) -> list[Any]:
    """The records at these places, in one read a source."""
    by_source: dict[int, list[int]] = {}
    for i, (found, _) in enumerate(places):
        by_source.setdefault(id(found), []).append(i)
    out: list[Any] = [None] * len(places)
    for at in by_source.values():
        for i, record in zip(at, places[at[0]][0].many([places[i][1] for i in at]), strict=True):
            out[i] = record
    return out


def _place(run: FilterRun, shards: near_duplicates.FingerprintShards, document: int) -> tuple[Records, int]:
    """(records, number in them) of a document."""
    shard = int(np.searchsorted(shards.starts, document, side="right")) - 1
    numbers = np.load(run.folder("check", shard) / "numbers.npy", mmap_mode="r")
    return records_of(str(run.out), run.plan["shards"][shard][0]), int(
        numbers[document - shards.starts[shard]]
    )


def _alike(run: FilterRun, record: Any, copy: Any, step: str) -> bool:
    """Whether the texts of two records as they were read say what the step says of them."""
    field = run.cfg.source.text_field
    one, two = (
        [fingerprints.normalised(part.text) for part in record_texts.parts(r, field)] for r in (record, copy)
    )
    if step == "exact":
        return one == two
    coded = [fingerprints.coded([" ".join(texts)])[0].tobytes().decode("utf-32-le") for texts in (one, two)]
    return near_duplicates.similarity(*coded, run.cfg.near) > 0
