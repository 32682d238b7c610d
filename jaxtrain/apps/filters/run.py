"""The phases of a filter run, from plan to report; the result of a task is in its folder whole, or not at all.

    check   a shard each     the steps, one document at a time; fingerprints of what passes
    broken  a source each    lines that are no records
    exact   one              the first copy of each document
    pairs   a band each      candidates for near duplicates
    near    one              near duplicates and their kept copies
    write   a shard each     kept documents, and the ledger lines of duplicates
    finish  one              rejected.jsonl, report.json, report.html, the kept files; removes the work folder

A task reads the plan and the files of earlier phases alone, so that processes of one machine, Slurm jobs and Ray tasks
give the same result. A finished task does not run again; one that was killed leaves nothing.
"""

import functools
import os
import shutil
from pathlib import Path

from jaxtrain.apps.filters import ledger, phases, report, report_data, steps
from jaxtrain.apps.filters.ledger import Tally
from jaxtrain.apps.filters.plan import WORK, FilterRun, load_run
from jaxtrain.data import filtered
from jaxtrain.files import atomic, cache

_TASKS = {
    "broken": phases.reject_broken_lines,
    "exact": phases.find_exact_copies,
    "pairs": phases.find_candidate_pairs,
    "near": phases.choose_kept_copies,
    "write": phases.write_shard,
}


def run_task(out: str, scorer: steps.Scorer | None, phase: str, rank: int) -> None:
    """Runs a task of the filter run in `out`, unless it is finished."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # a task has one core
    run = load_run(out)
    if phase == "finish":
        finish(run)
        return
    task = functools.partial(phases.check_documents, scorer=scorer) if phase == "check" else _TASKS[phase]
    cache.build(run.task_folder(phase, rank), lambda folder: task(run, rank, folder), "out")


def is_done(run: FilterRun, phase: str, rank: int) -> bool:
    """Whether a task is finished."""
    return run.task_folder(phase, rank).is_dir()


def finish(run: FilterRun) -> None:
    """Writes the result of the finished tasks. After a kill the next call completes it."""
    if filtered.read_report(run.out) is not None:
        shutil.rmtree(run.out / WORK, ignore_errors=True)
        return
    with cache.full_disk(run.out, "out"):
        total = Tally()
        for phase in run.phases()[:-1]:
            for rank in range(len(phase.sizes)):
                total.add(Tally.load(run.task_folder(phase.name, rank) / "tally.json"))
        total.check()
        _write_rejected(run)
        files = _move_kept(run)
        planned = {key: run.plan[key] for key in ("version", "config", "sources", "evals", "shards")}
        result = (
            planned
            | ledger.step_report(total, steps.step_names(run.cfg))
            | report_data.report_data(run, files)
        )
        report.write_page(result, run.out / "report.html")
        filtered.write_report(run.out, result, files)
    shutil.rmtree(run.out / WORK)


def _write_rejected(run: FilterRun) -> None:
    """Writes rejected.jsonl: the sources' broken lines, then shard after shard."""
    folders = [run.task_folder("broken", i) for i in range(len(run.plan["sources"]))]
    folders += [run.task_folder("write", i) for i in range(len(run.plan["shards"]))]
    with atomic.replacing(run.out / "rejected.jsonl") as file:
        for folder in folders:
            with (folder / "rejected.jsonl").open("rb") as lines:
                shutil.copyfileobj(lines, file, 1 << 20)


def _move_kept(run: FilterRun) -> list[Path]:
    """The files of kept/, after moving the shards' kept documents there; shards that keep none have no file."""
    folder = run.out / "kept"
    folder.mkdir(exist_ok=True)
    for i in range(len(run.plan["shards"])):
        path, target = run.task_folder("write", i) / "kept.jsonl", folder / f"{i:06d}.jsonl"
        if path.exists() and path.stat().st_size:
            path.replace(target)
    cache.sync(folder)
    return sorted(folder.glob("*.jsonl"))
