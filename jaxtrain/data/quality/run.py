"""A filtering from plan to report: phases of tasks, each of which appears whole in the folder or not at all.

    check   a shard each     the steps, one document at a time; fingerprints of what is left
    broken  a source each    lines that are no records
    exact   one              the first copy of each document
    pairs   a band each      candidates for near duplicates
    near    one              near duplicates and the copies that are kept
    write   a shard each     what is kept, and what of the shard's was a duplicate
    finish  one              rejected.jsonl, report.json, the kept files; the work folder goes

A task reads the plan and what earlier phases wrote, never another task's memory, so processes of one machine, Slurm
jobs and Ray tasks do the same. A task that was finished is not done again; one that was killed leaves nothing.
"""

import functools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain import config, flags
from jaxtrain.config import ConfigError
from jaxtrain.data import cache, filtered, sources, spec
from jaxtrain.data.quality import broken, decontaminate, dedup, ledger, near, records, steps
from jaxtrain.data.quality.finding import Finding
from jaxtrain.data.quality.ledger import Tally
from jaxtrain.data.quality.settings import Filter
from jaxtrain.data.sources import Records

VERSION = 1
WORK = "work"
_READ = 64  # records read at once
_EXACT, _NEAR = 1, 2  # kinds of duplicates
_KINDS = {_EXACT: "exact", _NEAR: "near"}


class Phase(NamedTuple):
    """Tasks that may run at the same time: each is `do(phase, rank)` of so many documents."""

    name: str
    sizes: tuple[int, ...]


class Run(NamedTuple):
    """An open filtering: its folder, its flags, and what was planned."""

    out: Path
    cfg: Filter
    plan: dict[str, Any]

    def folder(self, phase: str, rank: int = 0) -> Path:
        """Where a task's result is."""
        return self.out / WORK / phase / f"{rank:06d}"

    def near(self) -> dedup.Plan | None:
        """How near duplicates are found; None where they are not."""
        return near.plan(self.cfg.near) if self.cfg.near.near != "off" else None

    def phases(self) -> list[Phase]:
        """All phases, in their order."""
        sizes = tuple(stop - start for _, start, stop in self.plan["shards"])
        documents, found = sum(sizes), self.near()
        return [
            Phase("broken", tuple(one["skipped"] for one in self.plan["sources"])),
            Phase("check", sizes),
            Phase("exact", (documents,)),
            Phase("pairs", (documents,) * (_groups(found, documents) if found else 0)),
            Phase("near", (documents,)),
            Phase("write", sizes),
            Phase("finish", (documents,)),
        ]


def _groups(plan: dedup.Plan, documents: int) -> int:
    """How many tasks share the bands: one a band, but for few documents a dozen or so is enough."""
    return min(plan.bands, max(4, documents // 10_000))


def begin(cfg: Filter) -> Run:
    """Plans the filtering in a new folder, or opens the one that the same flags planned there.

    Raises ConfigError for a folder that holds anything else, and where the data changed.
    """
    out = Path(cfg.work.out).expanduser().absolute()
    path = out / WORK / "plan.json"
    opened = [sources.whole(source, cfg.source.reading(), None) for source in spec.parse(cfg.source.data)]
    facts = {"version": VERSION, "config": config.to_dict(cfg), "sources": _facts(opened)}
    if filtered.held(out) is not None or path.exists():
        held = filtered.held(out) or json.loads(path.read_text(encoding="utf-8"))
        _same(out, held, facts, cfg)
        return Run(out, cfg, {**held, "finished": "fingerprint" in held})
    if out.exists() and {entry.name for entry in out.iterdir()} - {WORK, "logs"}:
        raise ConfigError(f"--out={out}: the folder is not empty and holds no filtering; name a new one")
    shards = [
        [i, start, min(start + cfg.work.shard, len(one))]
        for i, one in enumerate(opened)
        for start in range(0, len(one), cfg.work.shard)
    ]
    with cache.full_disk(out, "out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        evals = _evals(cfg, path.parent) if cfg.decontaminate.decontaminate else {}
        plan = {**facts, "shards": shards, "evals": evals}
        fresh = path.with_suffix(".part")
        fresh.write_text(config.dumps(plan), encoding="utf-8")
        cache.sync(fresh)
        fresh.replace(path)
    return Run(out, cfg, {**plan, "finished": False})


def _facts(opened: list[Records]) -> list[dict[str, Any]]:
    return [
        {
            "label": one.label,
            "fingerprint": one.fingerprint,
            "documents": len(one),
            "skipped": broken.count(one),
            "listed": one.listed,
        }
        for one in opened
    ]


def _same(out: Path, held: dict[str, Any], facts: dict[str, Any], cfg: Filter) -> None:
    changed = config.difference(held["config"], cfg)
    changed = [line for line in changed if not line.startswith("--out:")]
    if held["sources"] != facts["sources"]:
        changed.append("the data")
    if held["version"] != facts["version"]:
        changed.append("the program's format")
    if changed:
        raise ConfigError(
            f"--out={out}: a filtering with other flags or data is there:\n  "
            + "\n  ".join(changed)
            + "\nName a new folder, or remove this one"
        )


def _evals(cfg: Filter, folder: Path) -> dict[str, int]:
    reading = cfg.source.reading(cfg.decontaminate.decontaminate)

    def texts() -> Iterator[list[str]]:
        for source in spec.parse(cfg.decontaminate.decontaminate, "decontaminate"):
            found = sources.all_of(source, reading, None)
            for _, block in found.blocks():
                for record in block:
                    parts = records.parts(record, sources.text_field(source, reading))
                    yield [part.text for part in parts if isinstance(part.text, str)]

    return decontaminate.build(texts(), cfg.decontaminate, folder / "evals.npy")


@functools.lru_cache(4)
def _opened(out: str) -> Run:
    plan = json.loads((Path(out) / WORK / "plan.json").read_text(encoding="utf-8"))
    return Run(Path(out), flags.from_dict(Filter, plan["config"]), plan)


@functools.lru_cache(8)
def _records(out: str, source: int) -> Records:
    cfg = _opened(out).cfg
    found = sources.whole(spec.parse(cfg.source.data)[source], cfg.source.reading(), None)
    if found.fingerprint != _opened(out).plan["sources"][source]["fingerprint"]:
        raise ConfigError(f"--data: {found.label} changed while it was filtered; begin again in a new folder")
    return found


def do(out: str, scorer: steps.Scorer | None, phase: str, rank: int) -> None:
    """Does a task of the filtering in `out`, unless it was done."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # a task is one core's
    run = _opened(out)
    if phase == "finish":
        finish(run)
        return
    make = functools.partial(check, scorer=scorer) if phase == "check" else _DO[phase]
    cache.build(run.folder(phase, rank), lambda folder: make(run, rank, folder), "out")


def done(run: Run, phase: str, rank: int) -> bool:
    """Whether a task was finished."""
    return run.folder(phase, rank).is_dir()


def check(run: Run, rank: int, folder: Path, *, scorer: steps.Scorer | None) -> None:
    """Runs the steps on a shard: kept.jsonl, rejected.jsonl, fingerprints, counts."""
    source, start, stop = run.plan["shards"][rank]
    found = _records(str(run.out), source)
    table = (
        decontaminate.Table(run.out / WORK / "evals.npy", run.cfg.decontaminate.decontaminate_ngram)
        if run.cfg.decontaminate.decontaminate
        else None
    )
    tally = Tally()
    judge = steps.Judge(run.cfg, steps.active(run.cfg, table, scorer), tally)
    prints = dedup.Writer(folder, run.near())
    last = "near" if run.near() else "exact"
    with (folder / "kept.jsonl").open("wb") as kept, (folder / "rejected.jsonl").open("wb") as rejected:
        for first in range(start, stop, _READ):
            numbers = range(first, min(first + _READ, stop))
            for number, record in zip(numbers, found.many(numbers), strict=True):
                verdict = judge(_name(found, number), record)
                rejected.writelines(map(records.dumps, verdict.lines))
                if verdict.record is not None:
                    kept.write(records.dumps(verdict.record))
                    began = time.perf_counter()
                    prints.add(number, verdict.texts)
                    tally.seconds[last] += time.perf_counter() - began
        prints.close()
    tally.save(folder / "tally.json")


def _name(found: Records, number: int) -> str:
    return f"{found.label}#{found.source_number(number)}"


def turn_down(run: Run, rank: int, folder: Path) -> None:
    """Lists a source's lines that are no records."""
    tally = Tally()
    with (folder / "rejected.jsonl").open("wb") as file:
        for line in broken.lines(_records(str(run.out), rank)):
            tally.read += 1
            tally.seen[ledger.READ] += 1
            tally.note(ledger.READ, [line["rule"]], "drop")
            file.write(records.dumps(line))
    tally.save(folder / "tally.json")


def _shards(run: Run) -> near.Shards:
    return near.Shards.of([run.folder("check", i) for i in range(len(run.plan["shards"]))])


def exact(run: Run, rank: int, folder: Path) -> None:
    """Finds the first copy of each document."""
    began, shards = time.perf_counter(), _shards(run)
    first = (
        np.full(len(shards), -1, np.int64)
        if run.cfg.steps.exact == "off"
        else dedup.first_copies(shards.column("digests.npy"))
    )
    np.save(folder / "first.npy", first)
    Tally(seconds=_seconds("exact", began)).save(folder / "tally.json")


def _seconds(step: str, began: float) -> Any:
    tally = Tally()
    tally.seconds[step] = time.perf_counter() - began
    return tally.seconds


def pairs(run: Run, rank: int, folder: Path) -> None:
    """Finds a band's candidates."""
    began, shards = time.perf_counter(), _shards(run)
    part = near.takes_part(shards, np.load(run.folder("exact") / "first.npy"), run.cfg.near)
    found, count = run.near(), len(next(one for one in run.phases() if one.name == "pairs").sizes)
    for band in range(rank, found.bands, count):
        np.save(folder / f"{band:04d}.npy", near.pairs(shards, part, run.cfg.near, band))
    Tally(seconds=_seconds("near", began)).save(folder / "tally.json")


def kept_copies(run: Run, rank: int, folder: Path) -> None:
    """Settles which copy is kept: its number or -1, of which kind the duplicate is, and how alike they are."""
    began, shards = time.perf_counter(), _shards(run)
    first = np.load(run.folder("exact") / "first.npy")
    leader, score = np.full(len(shards), -1, np.int64), np.zeros(len(shards), np.float32)
    if found := run.near():
        bands = sorted((run.out / WORK / "pairs").glob("*/*.npy"))
        leader, score = near.leaders(shards, bands, run.cfg.near)
    copies = first >= 0
    kind = np.where(copies, _EXACT, np.where(leader >= 0, _NEAR, 0)).astype(np.uint8)
    of_first = leader[first[copies]]  # the first copy may itself be a near duplicate
    leader[copies] = np.where(of_first >= 0, of_first, first[copies])
    score[copies] = 1.0
    for name, array in (("leader", leader), ("kind", kind), ("score", score)):
        np.save(folder / f"{name}.npy", array)
    Tally(seconds=_seconds("near" if found else "exact", began)).save(folder / "tally.json")


def write(run: Run, rank: int, folder: Path) -> None:
    """Writes what a shard keeps, and what of it was a duplicate."""
    shards, source = _shards(run), run.plan["shards"][rank][0]
    found, tally = _records(str(run.out), source), Tally()
    start, stop = shards.starts[rank : rank + 2].tolist()
    leader, kind, score = (
        np.load(run.folder("near") / f"{name}.npy", mmap_mode="r")[start:stop]
        for name in ("leader", "kind", "score")
    )
    numbers = np.load(run.folder("check", rank) / "numbers.npy")
    shutil.copyfile(run.folder("check", rank) / "rejected.jsonl", folder / "rejected.jsonl")
    steps_on = [_KINDS[k] for k in _KINDS if _on(run, _KINDS[k])]
    with (
        (run.folder("check", rank) / "kept.jsonl").open("rb") as lines,
        (folder / "kept.jsonl").open("wb") as kept,
        (folder / "rejected.jsonl").open("ab") as rejected,
    ):
        for i, line in enumerate(lines):
            step = _KINDS.get(int(kind[i]))
            for name in steps_on[: 1 if step == "exact" else 2]:
                tally.seen[name] += 1
            record = found.many([int(numbers[i])])[0] if step else None
            _label(tally, step, steps_on, record or (json.loads(line) if b'"defect"' in line else {}))
            if step is None:
                tally.kept += 1
                kept.write(line)
                continue
            finding = Finding(_RULE[step], float(score[i]))
            copy = _place(run, shards, int(leader[i]))
            line = ledger.entry(
                _name(found, int(numbers[i])), "drop", step, [(None, finding)], record, kept=_name(*copy)
            )
            rejected.write(records.dumps(line))
            tally.note(step, [_RULE[step]], "drop")
            if isinstance(record.get("defect"), str) and _alike(
                run, record, copy[0].many([copy[1]])[0], step
            ):
                tally.label(step, record["defect"] or "clean", "right")
    tally.save(folder / "tally.json")


_RULE = {"exact": "same_text", "near": "similar_words"}


def _on(run: Run, step: str) -> bool:
    return run.cfg.steps.exact != "off" if step == "exact" else run.near() is not None


def _label(tally: Tally, step: str | None, on: list[str], record: Any) -> None:
    label = record.get("defect")
    if isinstance(label, str):
        for name in on[: on.index(step) + 1 if step else None]:
            tally.label(name, label or "clean", "reached")
        if step:
            tally.label(step, label or "clean", "found")


def _place(run: Run, shards: near.Shards, document: int) -> tuple[Records, int]:
    """(records, number in them) of a document."""
    shard = int(np.searchsorted(shards.starts, document, side="right")) - 1
    numbers = np.load(run.folder("check", shard) / "numbers.npy", mmap_mode="r")
    return _records(str(run.out), run.plan["shards"][shard][0]), int(numbers[document - shards.starts[shard]])


def _alike(run: Run, record: Any, copy: Any, step: str) -> bool:
    """Whether the texts of two records as they were read say what the step says of them."""
    field = run.cfg.source.text_field
    one, two = ([dedup.normalised(part.text) for part in records.parts(r, field)] for r in (record, copy))
    if step == "exact":
        return one == two
    words = [" ".join(texts).split() for texts in (one, two)]
    return near.word_similarity(*words) >= run.cfg.near.near_similarity


_DO = {
    "broken": turn_down,
    "exact": exact,
    "pairs": pairs,
    "near": kept_copies,
    "write": write,
}


def finish(run: Run) -> None:
    """Puts the result together; what it did is not undone by a kill, and not done twice by the next call."""
    if filtered.held(run.out) is not None:
        shutil.rmtree(run.out / WORK, ignore_errors=True)
        return
    with cache.full_disk(run.out, "out"):
        total = Tally()
        for phase in run.phases()[:-1]:
            for rank in range(len(phase.sizes)):
                total.add(Tally.load(run.folder(phase.name, rank) / "tally.json"))
        total.check()
        _joined(run)
        files = _kept(run)
        held = {
            key: run.plan[key] for key in ("version", "config", "sources", "evals", "shards")
        } | ledger.report(total, steps.names(run.cfg))
        filtered.save(run.out, held, files)
    shutil.rmtree(run.out / WORK)


def _joined(run: Run) -> None:
    """Writes rejected.jsonl: the sources' broken lines, then shard after shard."""
    part = run.out / "rejected.jsonl.part"
    folders = [run.folder("broken", i) for i in range(len(run.plan["sources"]))]
    folders += [run.folder("write", i) for i in range(len(run.plan["shards"]))]
    with part.open("wb") as file:
        for folder in folders:
            with (folder / "rejected.jsonl").open("rb") as lines:
                shutil.copyfileobj(lines, file, 1 << 20)
    cache.sync(part)
    part.replace(run.out / "rejected.jsonl")


def _kept(run: Run) -> list[Path]:
    """Moves the shards' kept documents to kept/; those that keep none have no file."""
    folder = run.out / "kept"
    folder.mkdir(exist_ok=True)
    for i in range(len(run.plan["shards"])):
        path, target = run.folder("write", i) / "kept.jsonl", folder / f"{i:06d}.jsonl"
        if path.exists() and path.stat().st_size:
            path.replace(target)
    cache.sync(folder)
    return sorted(folder.glob("*.jsonl"))
