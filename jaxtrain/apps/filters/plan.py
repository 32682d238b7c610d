"""The plan of a filter run: its folder, flags, shards and phases, written once to plan.json."""

import functools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import config
from jaxtrain.apps.filters import broken_lines, decontaminate, fingerprints, near_duplicates, record_texts
from jaxtrain.apps.filters.config import Filter
from jaxtrain.config import ConfigError
from jaxtrain.data import filtered, source_spec, sources
from jaxtrain.data.sources import Records
from jaxtrain.files import atomic, cache

VERSION = 1
WORK, PLAN, EVALS = "work", "plan.json", "evals"
_WRITTEN = {
    WORK,
    "logs",
    filtered.KEPT,
    filtered.PAGE,
    *filtered.BESIDE,
}  # what an unfinished run may have written


class FilterPhase(NamedTuple):
    """A phase: tasks that may run at the same time, each `run_task(phase, rank)`, and the documents of each."""

    name: str
    sizes: tuple[int, ...]  # documents of each task


class FilterRun(NamedTuple):
    """A filter run: its folder, its flags, and its plan."""

    out: Path
    cfg: Filter
    plan: dict[str, Any]

    def task_folder(self, phase: str, rank: int = 0) -> Path:
        """The folder of a task's result."""
        return self.out / WORK / phase / f"{rank:06d}"

    @property
    def fingerprint(self) -> str:
        """Of all that decides the results of the tasks; empty for a plan of an earlier release."""
        return self.plan.get("plan", "")

    def evals_table(self) -> decontaminate.NgramTable | None:
        """The n-grams of the evaluation set; None without --decontaminate."""
        settings, path = self.cfg.decontaminate, self.out / WORK / EVALS / "ngrams.npy"
        return (
            decontaminate.NgramTable(path, settings.decontaminate_ngram) if settings.decontaminate else None
        )

    def minhash_plan(self) -> fingerprints.MinHashPlan | None:
        """The MinHash plan of near duplicates; None where they are kept."""
        return near_duplicates.minhash_plan(self.cfg.near) if self.cfg.near.near != "off" else None

    def phases(self) -> list[FilterPhase]:
        """All phases, in their order."""
        sizes = tuple(stop - start for _, start, stop in self.plan["shards"])
        documents, minhash = sum(sizes), self.minhash_plan()
        return [
            FilterPhase("broken", tuple(one["skipped"] for one in self.plan["sources"])),
            FilterPhase("check", sizes),
            FilterPhase("exact", (documents,)),
            FilterPhase("pairs", (documents,) * (_pair_tasks(minhash, documents) if minhash else 0)),
            FilterPhase("near", (documents,)),
            FilterPhase("write", sizes),
            FilterPhase("finish", (documents,)),
        ]


def _pair_tasks(plan: fingerprints.MinHashPlan, documents: int) -> int:
    """The number of tasks of the bands: one a band, fewer for few documents."""
    return min(plan.bands, max(4, documents // 10_000))


def open_run(cfg: Filter) -> FilterRun:
    """The filter run of these flags: planned in a new folder, or the one that is there.

    A plan that is missing or damaged is written anew, with a line; `run.is_done` compares it with that of the finished
    tasks. Raises ConfigError for a folder of anything else, of other flags, or of data that changed.
    """
    out = Path(cfg.work.out).expanduser().absolute()
    path = out / WORK / PLAN
    dialogs = cfg.dialogs_config()
    records = [sources.whole(source, dialogs, None) for source in source_spec.parse(cfg.source.data)]
    facts = {"version": VERSION, "config": config.to_dict(cfg), "sources": _source_facts(records)}
    report = filtered.read_report(out)
    saved = _saved_plan(path) if report is None else report
    if saved is not None:
        _check_same(out, saved, facts, cfg)
    if report is not None:
        shutil.rmtree(out / WORK, ignore_errors=True)  # of a kill after the report was written
        return FilterRun(out, cfg, {**report, "finished": True})
    if out.exists() and (more := _foreign(out)):
        raise ConfigError(
            f"--out={out}: the folder is not empty ({more}) and has no filter run, finished ({filtered.REPORT}) or "
            f"unfinished ({WORK}/{PLAN}): name a new one"
        )
    with cache.full_disk(out, "out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        evals = _build_evals(cfg, path.parent / EVALS) if cfg.decontaminate.decontaminate else {}
        if saved is None:
            saved = _new_plan(cfg, facts, records, evals)
            atomic.write_sealed(path, saved)
    if saved["evals"] != evals:
        raise ConfigError(f"--decontaminate: {cfg.decontaminate.decontaminate} changed; name a new folder")
    load_run.cache_clear()  # of another plan in this folder
    source_records.cache_clear()
    return FilterRun(out, cfg, {**saved, "finished": False})


def _saved_plan(path: Path) -> dict[str, Any] | None:
    """The plan in a file; None where there is none that can be read, with a line where there was one."""
    try:
        return _read_plan(path)
    except FileNotFoundError:
        wrong = "is missing" if any(path.parent.glob("*/[0-9]*")) else ""
    except ValueError as error:
        wrong = f"is damaged ({error})"
    if wrong:
        print(f"{path} {wrong}: made anew", file=sys.stderr, flush=True)
    return None


def _read_plan(path: Path) -> dict[str, Any]:
    """The plan in a file. Raises ValueError where it is damaged."""
    plan = atomic.read_sealed(path)
    if not isinstance(plan, dict) or not {"version", "config", "sources", "evals", "shards"} <= plan.keys():
        raise ValueError("it is not a plan of a filter run")
    return plan


def _foreign(out: Path) -> str:
    """A name in the folder that no unfinished filter run has written; empty without one."""
    names = {entry.name.removesuffix(atomic.TEMPORARY) for entry in out.iterdir()}
    return min(names - (_WRITTEN if WORK in names else {"logs"}), default="")


def _new_plan(
    cfg: Filter, facts: dict[str, Any], records: list[Records], evals: dict[str, int]
) -> dict[str, Any]:
    shards = [
        [i, start, min(start + cfg.work.shard, len(one))]
        for i, one in enumerate(records)
        for start in range(0, len(one), cfg.work.shard)
    ]
    decisive = [
        (field.name, value)
        for _, field, value in config.leaves(cfg)
        if not field.metadata["live"] and field.name != "out"
    ]
    fingerprint = cache.digest(VERSION, decisive, facts["sources"], shards, evals)
    return {**facts, "shards": shards, "evals": evals, "plan": fingerprint}


def _source_facts(records: list[Records]) -> list[dict[str, Any]]:
    return [
        {
            "label": one.label,
            "fingerprint": one.fingerprint,
            "documents": len(one),
            "skipped": broken_lines.count_bad_lines(one),
            "listed": one.listed,
            **({"notes": list(one.notes)} if one.notes else {}),
        }
        for one in records
    ]


def _check_same(out: Path, saved: dict[str, Any], facts: dict[str, Any], cfg: Filter) -> None:
    if not {"version", "config", "sources"} <= saved.keys():
        raise ConfigError(f"--out={out}: its {filtered.REPORT} is of no filter run; name a new folder")
    changed = config.difference(saved["config"], cfg)
    changed = [line for line in changed if not line.startswith("--out:")]
    if saved["sources"] != facts["sources"]:
        changed.append("the data")
    if saved["version"] != facts["version"]:
        changed.append("the program's format")
    if changed:
        raise ConfigError(
            f"--out={out}: the folder has a filter run with other flags or data:\n  "
            + "\n  ".join(changed)
            + "\nName a new folder, or remove this one"
        )


def _build_evals(cfg: Filter, folder: Path) -> dict[str, int]:
    """Counts of the evaluation set's n-grams, which are written to `folder` where they are missing or damaged."""
    dialogs = cfg.dialogs_config(cfg.decontaminate.decontaminate)

    def texts() -> Iterator[list[str]]:
        for source in source_spec.parse(cfg.decontaminate.decontaminate, "decontaminate"):
            for _, block in sources.all_of(source, dialogs, None).blocks():
                for record in block:
                    found = record_texts.find_texts(record, sources.text_field(source, dialogs))
                    yield [one.text for one in found if isinstance(one.text, str)]

    def fill(work: Path) -> None:
        counts = decontaminate.build_ngram_table(texts(), cfg.decontaminate, work / "ngrams.npy")
        (work / "counts.json").write_text(json.dumps(counts), encoding="utf-8")

    return json.loads((cache.build(folder, fill, "out") / "counts.json").read_text(encoding="utf-8"))


@functools.lru_cache(4)
def load_run(out: str) -> FilterRun:
    """The filter run that was planned in a folder. Raises ConfigError where its plan cannot be read."""
    path = Path(out) / WORK / PLAN
    try:
        plan = _read_plan(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give the same command again") from error
    defaults = Filter()
    groups = {name: type(getattr(defaults, name))(**values) for name, values in plan["config"].items()}
    return FilterRun(Path(out), Filter(**groups), plan)


@functools.lru_cache(8)
def source_records(out: str, source: int) -> Records:
    """The records of a source of the filter run in a folder. Raises ConfigError where they changed."""
    cfg = load_run(out).cfg
    records = sources.whole(source_spec.parse(cfg.source.data)[source], cfg.dialogs_config(), None)
    if records.fingerprint != load_run(out).plan["sources"][source]["fingerprint"]:
        raise ConfigError(
            f"--data: {records.label} changed while it was filtered; start again in a new folder"
        )
    return records


def document_id(records: Records, number: int) -> str:
    """A record's id in the ledger, `SOURCE#NUMBER`."""
    return f"{records.label}#{records.source_number(number)}"
