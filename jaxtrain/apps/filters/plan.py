"""What a filtering is to do: its folder, flags, shards and phases, planned once and kept in plan.json."""

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
    """Tasks that may run at the same time: each is `do(phase, rank)` of so many documents."""

    name: str
    sizes: tuple[int, ...]


class FilterRun(NamedTuple):
    """An open filtering: its folder, its flags, and what was planned."""

    out: Path
    cfg: Filter
    plan: dict[str, Any]

    def folder(self, phase: str, rank: int = 0) -> Path:
        """Where a task's result is."""
        return self.out / WORK / phase / f"{rank:06d}"

    def near(self) -> fingerprints.MinHashPlan | None:
        """How near duplicates are found; None where they are not."""
        return near_duplicates.plan(self.cfg.near) if self.cfg.near.near != "off" else None

    def phases(self) -> list[FilterPhase]:
        """All phases, in their order."""
        sizes = tuple(stop - start for _, start, stop in self.plan["shards"])
        documents, found = sum(sizes), self.near()
        return [
            FilterPhase("broken", tuple(one["skipped"] for one in self.plan["sources"])),
            FilterPhase("check", sizes),
            FilterPhase("exact", (documents,)),
            FilterPhase("pairs", (documents,) * (_groups(found, documents) if found else 0)),
            FilterPhase("near", (documents,)),
            FilterPhase("write", sizes),
            FilterPhase("finish", (documents,)),
        ]


def _groups(plan: fingerprints.MinHashPlan, documents: int) -> int:
    """How many tasks share the bands: one a band, but for few documents a dozen or so is enough."""
    return min(plan.bands, max(4, documents // 10_000))


def open_run(cfg: Filter) -> FilterRun:
    """Plans the filtering in a new folder, or opens the one that the same flags planned there.

    Raises ConfigError for a folder that holds anything else, and where the data changed.
    """
    out = Path(cfg.work.out).expanduser().absolute()
    path = out / WORK / "plan.json"
    found = [
        sources.whole(source, cfg.source.reading(), None) for source in source_spec.parse(cfg.source.data)
    ]
    facts = {"version": VERSION, "config": config.to_dict(cfg), "sources": _facts(found)}
    if filtered.read_report(out) is not None or path.exists():
        held = filtered.read_report(out) or json.loads(path.read_text(encoding="utf-8"))
        _same(out, held, facts, cfg)
        return FilterRun(out, cfg, {**held, "finished": "fingerprint" in held})
    if out.exists() and {entry.name for entry in out.iterdir()} - {WORK, "logs"}:
        raise ConfigError(f"--out={out}: the folder is not empty and holds no filtering; name a new one")
    shards = [
        [i, start, min(start + cfg.work.shard, len(one))]
        for i, one in enumerate(found)
        for start in range(0, len(one), cfg.work.shard)
    ]
    with cache.full_disk(out, "out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        evals = _evals(cfg, path.parent) if cfg.decontaminate.decontaminate else {}
        plan = {**facts, "shards": shards, "evals": evals}
        atomic.write_text(path, config.dumps(plan))
    return FilterRun(out, cfg, {**plan, "finished": False})


def _facts(found: list[Records]) -> list[dict[str, Any]]:
    return [
        {
            "label": one.label,
            "fingerprint": one.fingerprint,
            "documents": len(one),
            "skipped": broken_lines.count(one),
            "listed": one.listed,
        }
        for one in found
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
        for source in source_spec.parse(cfg.decontaminate.decontaminate, "decontaminate"):
            found = sources.all_of(source, reading, None)
            for _, block in found.blocks():
                for record in block:
                    parts = record_texts.parts(record, sources.text_field(source, reading))
                    yield [part.text for part in parts if isinstance(part.text, str)]

    return decontaminate.build(texts(), cfg.decontaminate, folder / "evals.npy")


@functools.lru_cache(4)
def opened(out: str) -> FilterRun:
    """The filtering that was planned in a folder."""
    plan = json.loads((Path(out) / WORK / "plan.json").read_text(encoding="utf-8"))
    usual = Filter()
    groups = {name: type(getattr(usual, name))(**values) for name, values in plan["config"].items()}
    return FilterRun(Path(out), Filter(**groups), plan)


@functools.lru_cache(8)
def records_of(out: str, source: int) -> Records:
    """The records of a source of the filtering in a folder. Raises ConfigError where they changed."""
    cfg = opened(out).cfg
    found = sources.whole(source_spec.parse(cfg.source.data)[source], cfg.source.reading(), None)
    if found.fingerprint != opened(out).plan["sources"][source]["fingerprint"]:
        raise ConfigError(f"--data: {found.label} changed while it was filtered; begin again in a new folder")
    return found


def name_of(found: Records, number: int) -> str:
    """What the ledger calls a record, `SOURCE#NUMBER`."""
    return f"{found.label}#{found.source_number(number)}"
