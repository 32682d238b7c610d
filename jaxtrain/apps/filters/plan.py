"""The plan of a filter run: its folder, flags, shards and phases, written once to plan.json."""

import functools
import json
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
WORK = "work"


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

    Raises ConfigError for a folder of anything else, of other flags, or of data that changed.
    """
    out = Path(cfg.work.out).expanduser().absolute()
    path = out / WORK / "plan.json"
    dialogs = cfg.dialogs_config()
    records = [sources.whole(source, dialogs, None) for source in source_spec.parse(cfg.source.data)]
    facts = {"version": VERSION, "config": config.to_dict(cfg), "sources": _source_facts(records)}
    if filtered.read_report(out) is not None or path.exists():
        saved = filtered.read_report(out) or json.loads(path.read_text(encoding="utf-8"))
        _check_same(out, saved, facts, cfg)
        return FilterRun(out, cfg, {**saved, "finished": "fingerprint" in saved})
    if out.exists() and {entry.name for entry in out.iterdir()} - {WORK, "logs"}:
        raise ConfigError(f"--out={out}: the folder is not empty and has no filter run; name a new one")
    shards = [
        [i, start, min(start + cfg.work.shard, len(one))]
        for i, one in enumerate(records)
        for start in range(0, len(one), cfg.work.shard)
    ]
    with cache.full_disk(out, "out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        evals = _build_evals(cfg, path.parent) if cfg.decontaminate.decontaminate else {}
        plan = {**facts, "shards": shards, "evals": evals}
        atomic.write_text(path, config.dumps(plan))
    return FilterRun(out, cfg, {**plan, "finished": False})


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
    dialogs = cfg.dialogs_config(cfg.decontaminate.decontaminate)

    def texts() -> Iterator[list[str]]:
        for source in source_spec.parse(cfg.decontaminate.decontaminate, "decontaminate"):
            for _, block in sources.all_of(source, dialogs, None).blocks():
                for record in block:
                    found = record_texts.find_texts(record, sources.text_field(source, dialogs))
                    yield [one.text for one in found if isinstance(one.text, str)]

    return decontaminate.build_ngram_table(texts(), cfg.decontaminate, folder / "evals.npy")


@functools.lru_cache(4)
def load_run(out: str) -> FilterRun:
    """The filter run that was planned in a folder."""
    plan = json.loads((Path(out) / WORK / "plan.json").read_text(encoding="utf-8"))
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
