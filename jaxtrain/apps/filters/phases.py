"""The tasks of a filter run: each reads the files of earlier phases and writes its own into its folder."""

import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.apps.filters import (
    broken_lines,
    fingerprints,
    ledger,
    near_duplicates,
    record_texts,
    steps,
)
from jaxtrain.apps.filters.ledger import Tally
from jaxtrain.apps.filters.plan import WORK, FilterRun, document_id, source_records
from jaxtrain.apps.filters.types import Finding
from jaxtrain.data.sources import Records

_MAX_BLOCK_RECORDS = 512  # records read at once
_MAX_BLOCK_CHARS = 16_000_000  # characters of them, about
_EXACT, _NEAR = 1, 2  # kinds of duplicates
_KINDS = {_EXACT: "exact", _NEAR: "near"}
_RULES = {"exact": "same_text", "near": "similar_words"}


def check_documents(run: FilterRun, rank: int, folder: Path, *, scorer: steps.Scorer | None) -> None:
    """Writes what the steps make of a shard: kept.jsonl, rejected.jsonl, fingerprints, counts."""
    source, start, stop = run.plan["shards"][rank]
    records = source_records(str(run.out), source)
    tally = Tally()
    pipeline = steps.FilterPipeline(run.cfg, steps.active_steps(run.cfg, run.evals_table(), scorer), tally)
    last = "near" if run.minhash_plan() else "exact"
    with (
        (folder / "kept.jsonl").open("wb") as kept,
        (folder / "rejected.jsonl").open("wb") as rejected,
        fingerprints.FingerprintWriter(folder, run.minhash_plan()) as writer,
    ):
        for first, block in _blocks(records, start, stop):
            verdicts = pipeline((document_id(records, i), record) for i, record in enumerate(block, first))
            for verdict in verdicts:
                rejected.writelines(map(record_texts.json_line, verdict.ledger_lines))
            passed = [(i, one) for i, one in enumerate(verdicts, first) if one.record is not None]
            kept.writelines(record_texts.json_line(one.record) for _, one in passed)
            start_time = time.perf_counter()
            for number, one in passed:
                writer.add(number, one.texts)
            tally.seconds[last] += time.perf_counter() - start_time
    tally.save(folder / "tally.json")


def _blocks(records: Records, start: int, stop: int) -> Iterator[tuple[int, list[Any]]]:
    """(first number, records) block by block: few long records at once, or many short ones."""
    size = 16
    while start < stop:
        block = records.many(range(start, min(start + size, stop)))
        yield start, block
        start += len(block)
        mean = sum(len(str(one)) for one in block[:16]) / len(block[:16])
        size = int(min(_MAX_BLOCK_RECORDS, max(1, _MAX_BLOCK_CHARS / mean)))


def reject_broken_lines(run: FilterRun, rank: int, folder: Path) -> None:
    """Writes the lines of a source that are no records to rejected.jsonl."""
    tally = Tally()
    with (folder / "rejected.jsonl").open("wb") as file:
        for line in broken_lines.rejected_lines(source_records(str(run.out), rank)):
            tally.read += 1
            tally.seen[ledger.READ] += 1
            tally.count(ledger.READ, [line["rule"]], "drop")
            file.write(record_texts.json_line(line))
    tally.save(folder / "tally.json")


def _fingerprint_shards(run: FilterRun) -> near_duplicates.FingerprintShards:
    return near_duplicates.FingerprintShards.open(
        [run.task_folder("check", i) for i in range(len(run.plan["shards"]))]
    )


def find_exact_copies(run: FilterRun, rank: int, folder: Path) -> None:
    """Writes the first exact copy of each document."""
    start, shards = time.perf_counter(), _fingerprint_shards(run)
    first = (
        np.full(len(shards), -1, np.int64)
        if run.cfg.steps.exact == "off"
        else fingerprints.first_copies(shards.column("digests.npy"))
    )
    np.save(folder / "first.npy", first)
    Tally(seconds=_elapsed("exact", start)).save(folder / "tally.json")


def _elapsed(step: str, start: float) -> Counter:
    return Counter({step: time.perf_counter() - start})


def find_candidate_pairs(run: FilterRun, rank: int, folder: Path) -> None:
    """Writes the candidate pairs of some bands."""
    start, shards = time.perf_counter(), _fingerprint_shards(run)
    compared = near_duplicates.eligible(shards, np.load(run.task_folder("exact") / "first.npy"), run.cfg.near)
    plan, tasks = run.minhash_plan(), len(next(one for one in run.phases() if one.name == "pairs").sizes)
    for band in range(rank, plan.bands, tasks):
        np.save(
            folder / f"{band:04d}.npy", near_duplicates.candidate_pairs(shards, compared, run.cfg.near, band)
        )
    Tally(seconds=_elapsed("near", start)).save(folder / "tally.json")


def choose_kept_copies(run: FilterRun, rank: int, folder: Path) -> None:
    """Writes of each document the kept copy's number or -1, the kind of duplicate, and their similarity."""
    start, shards = time.perf_counter(), _fingerprint_shards(run)
    first = np.load(run.task_folder("exact") / "first.npy")
    leader, score = np.full(len(shards), -1, np.int64), np.zeros(len(shards), np.float32)
    near = run.minhash_plan() is not None
    if near:
        bands = sorted((run.out / WORK / "pairs").glob("[0-9]*/*.npy"))
        leader, score = near_duplicates.leaders(shards, bands, run.cfg.near)
    copies = first >= 0
    kind = np.where(copies, _EXACT, np.where(leader >= 0, _NEAR, 0)).astype(np.uint8)
    of_first = leader[first[copies]]  # the first copy may itself be a near duplicate
    leader[copies] = np.where(of_first >= 0, of_first, first[copies])
    score[copies] = 1.0
    for name, array in (("leader", leader), ("kind", kind), ("score", score)):
        np.save(folder / f"{name}.npy", array)
    Tally(seconds=_elapsed("near" if near else "exact", start)).save(folder / "tally.json")


class _ShardCopies(NamedTuple):
    """Of a shard's documents that passed the steps: the results of the phases near and exact, and their numbers."""

    leader: np.ndarray  # i64: the kept copy, or -1
    kind: np.ndarray  # u8: of the duplicate, or 0
    score: np.ndarray  # f32: similarity with the kept copy
    first: np.ndarray  # i64: the first exact copy, or -1
    numbers: np.ndarray  # i64: in the source

    @classmethod
    def load(cls, run: FilterRun, rank: int, starts: np.ndarray) -> "_ShardCopies":
        part = slice(*starts[rank : rank + 2].tolist())
        leader, kind, score = (
            np.load(run.task_folder("near") / f"{name}.npy", mmap_mode="r")[part]
            for name in ("leader", "kind", "score")
        )
        first = np.load(run.task_folder("exact") / "first.npy", mmap_mode="r")[part]
        return cls(leader, kind, score, first, np.load(run.task_folder("check", rank) / "numbers.npy"))


def write_shard(run: FilterRun, rank: int, folder: Path) -> None:
    """Writes the documents that a shard keeps, and the ledger lines of its duplicates."""
    shards, tally = _fingerprint_shards(run), Tally()
    copies = _ShardCopies.load(run, rank, shards.starts)
    checked, active, start = run.task_folder("check", rank), _active_kinds(run), 0
    shutil.copyfile(checked / "rejected.jsonl", folder / "rejected.jsonl")
    with (
        (checked / "kept.jsonl").open("rb") as lines,
        (folder / "kept.jsonl").open("wb") as kept,
        (folder / "rejected.jsonl").open("ab") as rejected,
    ):
        while block := list(itertools.islice(lines, _MAX_BLOCK_RECORDS)):
            dropped = [i for i in range(start, start + len(block)) if copies.kind[i]]
            for line in _reject_copies(run, rank, shards, copies, dropped, tally):
                rejected.write(record_texts.json_line(line))
            for i, line in enumerate(block, start):
                if not copies.kind[i]:
                    tally.kept += 1
                    kept.write(line)
                    _count_reached(tally, active, json.loads(line) if b'"defect"' in line else {})
            start += len(block)
    for name in active:
        tally.seen[name] = start if name == active[0] else start - tally.dropped["exact"]
    tally.save(folder / "tally.json")


def _reject_copies(
    run: FilterRun,
    rank: int,
    shards: near_duplicates.FingerprintShards,
    copies: _ShardCopies,
    dropped: Sequence[int],
    tally: Tally,
) -> Iterator[dict[str, Any]]:
    """The ledger lines of these duplicates of a shard, counted."""
    records, active = source_records(str(run.out), run.plan["shards"][rank][0]), _active_kinds(run)
    of = [copies.first[i] if copies.kind[i] == _EXACT else copies.leader[i] for i in dropped]
    places = [_document_place(run, shards, int(document)) for document in of]
    rejected = _read_records([(records, int(copies.numbers[i])) for i in dropped])
    labelled = any(isinstance(record.get("defect"), str) for record in rejected)
    originals = _read_records(places) if labelled else rejected
    for i, record, place, original in zip(dropped, rejected, places, originals, strict=True):
        step, kept = _KINDS[int(copies.kind[i])], _document_place(run, shards, int(copies.leader[i]))
        findings = [(None, Finding(_RULES[step], float(copies.score[i])))]
        more = {"kept": document_id(*kept)} | ({"copy_of": document_id(*place)} if place != kept else {})
        yield ledger.ledger_line(
            document_id(records, int(copies.numbers[i])), "drop", step, findings, record, **more
        )
        tally.count(step, [_RULES[step]], "drop")
        _count_reached(tally, active[: active.index(step) + 1], record)
        if isinstance(record.get("defect"), str):
            tally.count_label(step, record["defect"] or "clean", "found")
            if _same_texts(run, record, original, step):
                tally.count_label(step, record["defect"] or "clean", "right")


def _active_kinds(run: FilterRun) -> list[str]:
    return ["exact"] * (run.cfg.steps.exact != "off") + ["near"] * (run.cfg.near.near != "off")


def _count_reached(tally: Tally, reached: Sequence[str], record: Any) -> None:
    label = record.get("defect")
    if isinstance(label, str):
        for name in reached:
            tally.count_label(name, label or "clean", "reached")


def _read_records(places: Sequence[tuple[Records, int]]) -> list[Any]:
    """The records at these places, in one read a source."""
    by_source: dict[int, list[int]] = {}
    for i, (records, _) in enumerate(places):
        by_source.setdefault(id(records), []).append(i)
    read: list[Any] = [None] * len(places)
    for chosen in by_source.values():
        numbers = [places[i][1] for i in chosen]
        for i, record in zip(chosen, places[chosen[0]][0].many(numbers), strict=True):
            read[i] = record
    return read


def _document_place(
    run: FilterRun, shards: near_duplicates.FingerprintShards, document: int
) -> tuple[Records, int]:
    """(records, number in them) of a document."""
    shard = int(np.searchsorted(shards.starts, document, side="right")) - 1
    numbers = np.load(run.task_folder("check", shard) / "numbers.npy", mmap_mode="r")
    records = source_records(str(run.out), run.plan["shards"][shard][0])
    return records, int(numbers[document - shards.starts[shard]])


def _same_texts(run: FilterRun, record: Any, copy: Any, step: str) -> bool:
    """Whether two records, as they were read, are duplicates by the step's own definition."""
    field = run.cfg.source.text_field
    both = [[one.text for one in record_texts.find_texts(each, field)] for each in (record, copy)]
    normalised = [[fingerprints.normalise(text) for text in texts] for texts in both]
    if step == "exact":
        return normalised[0] == normalised[1]
    words = [fingerprints.comparable(*each) for each in zip(both, normalised, strict=True)]
    encoded = [fingerprints.encode_words([one])[0].tobytes().decode("utf-32-le") for one in words]
    return near_duplicates.similarity(*encoded, run.cfg.near) > 0
