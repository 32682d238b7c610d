"""A filtering from plan to report: phases of tasks, each of which appears whole in the folder or not at all.

    check   a shard each     the steps, one document at a time; fingerprints of what is left
    broken  a source each    lines that are no records
    exact   one              the first copy of each document
    pairs   a band each      candidates for near duplicates
    near    one              near duplicates and the copies that are kept
    write   a shard each     what is kept, and what of the shard's was a duplicate
    finish  one              rejected.jsonl, report.json, report.html, the kept files; the work folder goes

A task reads the plan and what earlier phases wrote, never another task's memory, so processes of one machine, Slurm
jobs and Ray tasks do the same. A task that was finished is not done again; one that was killed leaves nothing.
"""

import functools
import os
import shutil
from pathlib import Path

from jaxtrain.apps.filters import ledger, phases, report, report_data, steps
from jaxtrain.apps.filters.ledger import Tally
from jaxtrain.apps.filters.plan import WORK, FilterRun, opened
from jaxtrain.data import filtered
from jaxtrain.files import cache

_DO = {
    "broken": phases.reject,
    "exact": phases.exact,
    "pairs": phases.pairs,
    "near": phases.remaining_copies,
    "write": phases.write,
}


def do(out: str, scorer: steps.Scorer | None, phase: str, rank: int) -> None:
    """Does a task of the filtering in `out`, unless it was done."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # a task is one core's
    run = opened(out)
    if phase == "finish":
        finish(run)
        return
    make = functools.partial(phases.check, scorer=scorer) if phase == "check" else _DO[phase]
    cache.build(run.folder(phase, rank), lambda folder: make(run, rank, folder), "out")


def done(run: FilterRun, phase: str, rank: int) -> bool:
    """Whether a task was finished."""
    return run.folder(phase, rank).is_dir()


def finish(run: FilterRun) -> None:
    """Puts the result together; what it did is not undone by a kill, and not done twice by the next call."""
    if filtered.read_report(run.out) is not None:
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
        planned = {key: run.plan[key] for key in ("version", "config", "sources", "evals", "shards")}
        held = planned | ledger.report(total, steps.names(run.cfg)) | report_data.report_data(run, files)
        report.write(held, run.out / "report.html")
        filtered.write_report(run.out, held, files)
    shutil.rmtree(run.out / WORK)


def _joined(run: FilterRun) -> None:
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


def _kept(run: FilterRun) -> list[Path]:
    """Moves the shards' kept documents to kept/; those that keep none have no file."""
    folder = run.out / "kept"
    folder.mkdir(exist_ok=True)
    for i in range(len(run.plan["shards"])):
        path, target = run.folder("write", i) / "kept.jsonl", folder / f"{i:06d}.jsonl"
        if path.exists() and path.stat().st_size:
            path.replace(target)
    cache.sync(folder)
    return sorted(folder.glob("*.jsonl"))
