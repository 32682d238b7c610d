"""The phases of a filter run, from plan to report; the result of a task is in its folder whole, or not at all.

    check   a shard each     the steps, one document at a time; fingerprints of what passes
    broken  a source each    lines that are no records
    exact   one              the first copy of each document
    pairs   a band each      candidates for near duplicates
    near    one              near duplicates and their kept copies
    write   a shard each     kept documents, and the ledger lines of duplicates
    finish  one              rejected.jsonl, report.json, report.html, the kept files; removes the work folder

A task reads the plan and the files of earlier phases alone, so that processes of one machine, Slurm jobs and Ray tasks
give the same result. A finished task does not run again, unless its files differ from their checksums: then it does,
with the phases that read them. One that was killed leaves nothing.
"""

import errno
import functools
import os
import shutil
import sys
import uuid
from pathlib import Path

from jaxtrain.apps.filters import ledger, phases, report, report_data, steps
from jaxtrain.apps.filters.ledger import Tally
from jaxtrain.apps.filters.plan import WORK, FilterRun, load_run
from jaxtrain.config import ConfigError
from jaxtrain.data import filtered, sources
from jaxtrain.files import atomic, cache

_TASKS = {
    "broken": phases.reject_broken_lines,
    "exact": phases.find_exact_copies,
    "pairs": phases.find_candidate_pairs,
    "near": phases.choose_kept_copies,
    "write": phases.write_shard,
}
_IN_ORDER = ("check", "exact", "pairs", "near", "write")  # each reads files of those before it
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_FINGERPRINT = "plan.txt"  # in a task's folder: FilterRun.fingerprint


def run_task(out: str, scorer: steps.Scorer | None, phase: str, rank: int) -> None:
    """Runs a task of the filter run in `out`, unless it is finished."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # a task has one core
    run = load_run(out)
    if phase == "finish":
        finish(run)
        return
    task = functools.partial(phases.check_documents, scorer=scorer) if phase == "check" else _TASKS[phase]

    def fill(folder: Path) -> None:
        task(run, rank, folder)
        (folder / _FINGERPRINT).write_text(run.fingerprint, encoding="utf-8")

    cache.build(run.task_folder(phase, rank), fill, "out")


def unfinished(run: FilterRun, phase: str) -> list[int]:
    """The tasks of a phase that are to run. Where there are any, results of the phases that read theirs are removed."""
    (sizes,) = (one.sizes for one in run.phases() if one.name == phase)
    left = [rank for rank in range(len(sizes)) if not is_done(run, phase, rank)]
    if left and phase in _IN_ORDER:
        for later in _IN_ORDER[_IN_ORDER.index(phase) + 1 :]:
            _discard(run.out / WORK / later, f"the phase {phase} runs again")
    return left


def is_done(run: FilterRun, phase: str, rank: int) -> bool:
    """Whether a task is finished, its files are as they were written, and they are of this plan."""
    folder = run.task_folder(phase, rank)
    if not cache.intact(folder):
        return False
    marked = folder / _FINGERPRINT
    if (marked.read_text(encoding="utf-8") if marked.exists() else "") == run.fingerprint:
        return True
    _discard(folder, "it is of another plan")
    return False


def _discard(folder: Path, why: str) -> None:
    """Removes results, if there are any, with a line."""
    if not folder.is_dir():
        return
    print(f"{folder}: {why}: made anew", file=sys.stderr, flush=True)
    aside = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:8]}")
    folder.rename(aside)  # a kill leaves no part of a result under its name
    shutil.rmtree(aside)


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
        files = _link_kept(run)
        planned = {key: run.plan[key] for key in ("version", "config", "sources", "evals", "shards")}
        result = (
            planned
            | ledger.step_report(total, steps.step_names(run.cfg))
            | report_data.report_data(run, files)
        )
        report.write_page(result, run.out / filtered.PAGE)
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


def _link_kept(run: FilterRun) -> list[Path]:
    """The files of kept/, links to the shards' kept documents; shards that keep none have no file."""
    folder = run.out / filtered.KEPT
    folder.mkdir(exist_ok=True)
    for left in folder.glob("*.jsonl"):  # of a kill
        left.unlink()
    for i in range(len(run.plan["shards"])):
        path, target = run.task_folder("write", i) / "kept.jsonl", folder / f"{i:06d}.jsonl"
        if not path.stat().st_size:
            continue
        try:
            os.link(path, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            path.replace(target)
    cache.sync(folder)
    return sorted(folder.glob("*.jsonl"))


def check_finished(run: FilterRun) -> str:
    """What is known of the files of a finished run, which are compared with its report.

    The page is written anew where it is another. Raises ConfigError for a file that differs.
    """
    page = run.out / filtered.PAGE
    if not page.is_file() or page.read_bytes() != report.page(run.plan):
        with cache.full_disk(page, "out"):
            report.write_page(run.plan, page)
        print(f"{page} is not the page of the report: made anew", file=sys.stderr, flush=True)
    memo = sources.cache_dir(run.cfg.dialogs_config()) / "digests"
    for wrong in filtered.damage(run.out, run.plan, memo):
        raise ConfigError(
            f"--out={run.out}: {wrong}: restore it from a copy, or filter again in a new folder"
        )
    if filtered.is_large(run.plan):
        return "finished before; its files have the sizes that were written, their contents were not read"
    return "finished before; its files are as they were written"
