"""Comparisons as token ids, in a memory-mapped cache."""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import Dialogs
from jaxtrain.data import dialogs, record_formats, sources, summary
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.chat import Template
from jaxtrain.data.compared_completions import Comparison, JudgedCompletion
from jaxtrain.data.held_out import NoneUsable
from jaxtrain.data.messages import BadRecord, Message, thought_of
from jaxtrain.data.record_fields import FieldUse, columns_of
from jaxtrain.data.record_formats import RecordFormat
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.unwritten import thought_lost
from jaxtrain.files import cache
from jaxtrain.files.progress import bar

_FORMAT = 4  # of the folder; part of its name, and of no fingerprint
_READ = {  # formats that each kind of batch is read from
    "pairs": ("tree", "chosen", "responses", "ranked", "marked", "summaries"),
    "ranked": ("tree", "chosen", "responses", "ranked", "marked", "summaries"),
    "unpaired": ("chosen", "responses", "judged"),
}
# What is counted of a source, and its line in the table.
_COUNTS = {
    "unranked": "{:,} trees without a message that has two ranked replies",
    "equal": "{:,} records dropped: chosen and rejected are the same",
    "double": "{:,} repeated completions of a ranking left out",
    "undecided": "{:,} ties left out: they say nothing of either completion",
    "ties": "{:,} pairs are tied",
    "ties_dropped": "{:,} rows dropped: nothing but ties",
    "shortened": "{:,} prompts lost their beginning",
    "filled": "{:,} prompts fill the context by themselves",
    "long": "{:,} rows dropped: their completions do not fit --seq_len",
    "added": "{:,} completions had no end token in the template: EOS added",
}
_COLUMNS = ("bounds", "rank", "p_win", "margin", "label", "number")


class Choice(NamedTuple):
    """How records become rows; `preferences.prepare` explains each field."""

    kind: str
    ties: str
    flat: bool
    soft: bool


class TokenisedComparisons(NamedTuple):
    """The tokenised rows of one source. Of row r the prompt is ids[bounds[r, 0]:bounds[r, 1]], completion j
    ids[bounds[r, 1 + j]:bounds[r, 2 + j]], empty where `rank` is -1.
    """

    ids: np.ndarray  # u16 or u32
    bounds: np.ndarray  # i64[R, K + 2]
    rank: np.ndarray  # i32[R, K]
    p_win: np.ndarray  # f32[R], NaN where unknown
    margin: np.ndarray  # f32[R], NaN where unknown
    label: np.ndarray  # f32[R]
    number: np.ndarray  # i64[R], of the record
    other: np.ndarray  # i64[R], the next row whose prompt is another one
    counts: dict[str, Any]
    fingerprint: str
    listed: str


def tokenised(
    flag: str, source: DataSource, records: Records, cfg: Dialogs, template: Template, choice: Choice
) -> TokenisedComparisons:
    """The rows of a source. Raises NoneUsable where none is left."""
    known = [one for one in record_formats.COMPARED if one.name in _READ[choice.kind]]
    columns, tokenizer = columns_of(cfg.columns), template.tokenizer
    form = record_formats.detect(records, source, known, flag, columns)
    mark = (
        1,
        choice.kind,
        records.fingerprint,
        tokenizer.fingerprint,
        template.fingerprint,
        form.name,
        cfg.system,
        cfg.too_long,
        cfg.seq_len,
        cfg.on_bad_record,
        *form.columns,
    )
    path = cache.build(
        sources.cache_dir(cfg) / "comparisons" / cache.digest(_FORMAT, *mark),
        lambda work: _fill(work, records, form, cfg, template, choice.kind),
    )
    counts = json.loads((path / "counts.json").read_text()) | {"format": form.name}
    counts["columns"] = [*record_formats.columns_line(columns, form)]
    columns = {name: np.load(path / f"{name}.npy") for name in _COLUMNS}
    undecided = (columns["rank"] > 0).sum(1) == 0
    known_p = ~np.isnan(columns["p_win"]) if choice.soft else np.zeros(len(undecided), bool)
    if not choice.soft:
        columns["p_win"][:] = np.nan
    if choice.kind != "unpaired":
        counts["ties"] = int((undecided & ~known_p).sum()) if choice.kind == "pairs" else counts["ties"]
        if choice.ties == "drop":
            keep = ~undecided | known_p
            counts["ties_dropped"] = int((~keep).sum())
            columns = {name: column[keep] for name, column in columns.items()}
    rows = TokenisedComparisons(
        ids=np.load(path / "ids.npy", mmap_mode="r").view(np.ndarray),
        **columns,
        other=np.zeros(0, np.int64),
        counts=counts,
        fingerprint=cache.digest(mark, choice, *counts["further"]),
        listed=str(path / "skipped.jsonl"),
    )
    if not len(rows.number):
        raise NoneUsable(
            f"--{flag}={source.label}: no comparison left of {counts['read']:,} records: "
            f"{'; '.join(_left_out(records, rows)) or 'it is empty'}"
        )
    return rows._replace(other=_others(rows)) if choice.kind == "unpaired" else rows


def _others(rows: TokenisedComparisons) -> np.ndarray:
    """i64[R], the next row of another record and prompt, from the end on from the first; the next where all are one."""
    prompts = [rows.ids[a:b].tobytes() for a, b in rows.bounds[:, :2].tolist()]
    count = len(prompts)
    other = np.arange(1, count + 1) % count
    for i in reversed(range(2 * count)):
        r, following = i % count, (i + 1) % count
        same = prompts[r] == prompts[following] or rows.number[r] == rows.number[following]
        other[r] = other[following] if same else following
    return other


def _fill(
    work: Path, records: Records, form: RecordFormat, cfg: Dialogs, template: Template, kind: str
) -> None:
    skips = Skips(cfg.on_bad_record)
    counts, use = Counter(read=len(records), items=0, kept=0, rows=0, ties=0), FieldUse()
    dtype = np.uint16 if template.tokenizer.vocab_size <= 1 << 16 else np.uint32
    ids, bounds, columns, at = [], [], {name: [] for name in _COLUMNS[1:]}, 0
    make = functools.partial(_rows_of, cfg=cfg, template=template, kind=kind, counts=counts)
    title = f"tokenising {records.label}"[:60]
    with bar(title, len(records), least=dialogs.LEAST_BAR) as advance:
        for number, rows in record_formats.each(records, form, skips, make, advance, use):
            counts["items"] += 1
            counts["kept"] += bool(rows)
            for prompt, completions, facts in rows:
                parts = [part.astype(dtype) for part in (prompt, *completions)]
                ids += parts
                bounds.append(np.cumsum([at, *map(len, parts)]))
                at = int(bounds[-1][-1])
                for name, value in (facts | {"number": number}).items():
                    columns[name].append(value)
    width = max(map(len, bounds), default=3)
    ragged = [np.pad(one, (0, width - len(one)), mode="edge") for one in bounds]
    np.save(work / "bounds.npy", np.asarray(ragged, np.int64).reshape(-1, width))
    ranks = [(*rank, *[-1] * (width - 2 - len(rank))) for rank in columns.pop("rank")]
    np.save(work / "rank.npy", np.asarray(ranks, np.int32).reshape(-1, width - 2))
    for name, values in columns.items():
        np.save(work / f"{name}.npy", np.asarray(values, np.int64 if name == "number" else np.float32))
    np.save(work / "ids.npy", np.concatenate(ids) if ids else np.zeros(0, dtype))
    counts.update(unranked=use.nothing, rows=len(bounds), ids=at, bad=len(skips))
    (work / "counts.json").write_text(json.dumps(dict(counts) | use.counts(), indent=1) + "\n")
    skips.save(work)


def _rows_of(
    item: Comparison | JudgedCompletion, cfg: Dialogs, template: Template, kind: str, counts: Counter[str]
) -> list[tuple[np.ndarray, list[np.ndarray], dict[str, Any]]]:
    """(prompt ids, completions' ids, rank, p_win, margin and label) of each row of a record."""
    messages, variables = dialogs.with_system(item.prompt, cfg.system), item.template_kwargs
    counts.update(_unwritten(item, messages, template))
    if isinstance(item, JudgedCompletion):
        prompt, completions, added = template.encode_completions(messages, [item.completion], variables)
        counts["added"] += added
        rows = [(prompt, completions, _facts((0,), label=float(item.label)))]
        return _fitted(rows, cfg, template, counts)
    prompt, completions, added = template.encode_completions(messages, item.completions, variables)
    completions, rank = _distinct(completions, item.rank, counts)
    if len(completions) < 2:
        counts["equal"] += 1
        return []
    counts["added"] += added
    p = np.nan if item.p_win is None else item.p_win
    if kind == "unpaired":
        if rank[0] == rank[1]:
            counts["undecided"] += 1
            return []
        rows = [(prompt, [one], _facts((0,), label=1.0 - i)) for i, one in enumerate(completions)]
    elif kind == "ranked" or len(completions) == 2:
        counts["ties"] += sum(a == b for a, b in itertools.combinations(rank, 2))
        rows = [(prompt, completions, _facts(rank, p, item.margin))]
    else:
        rows = [
            (
                prompt,
                [completions[i], completions[j]],
                _facts((0, int(rank[i] < rank[j])), margin=item.margin),
            )
            for i, j in itertools.combinations(range(len(completions)), 2)
        ]
    return _fitted(rows, cfg, template, counts)


def _unwritten(
    item: Comparison | JudgedCompletion, messages: tuple[Message, ...], template: Template
) -> Iterator[str]:
    """The counts' names of what the template writes neither of the prompt nor of a completion."""
    kinds = list(template.unwritten(messages, item.template_kwargs))
    completions = [item.completion] if isinstance(item, JudgedCompletion) else item.completions
    for one in completions:
        thought = "" if isinstance(one, str) else thought_of(one)
        if thought and thought_lost(template.completion_text(messages, one, item.template_kwargs), thought):
            kinds.append("thoughts")
    return (f"{summary.UNWRITTEN}{kind}" for kind in dict.fromkeys(kinds))


def _facts(
    rank: tuple[int, ...], p_win: float = np.nan, margin: float | None = None, label: float = 0.0
) -> dict[str, Any]:
    return {"rank": rank, "p_win": p_win, "margin": np.nan if margin is None else margin, "label": label}


def _distinct(
    completions: list[np.ndarray], rank: tuple[int, ...], counts: Counter[str]
) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """(the distinct completions, their ranks)."""
    first: dict[bytes, int] = {}
    for one, r in zip(completions, rank, strict=True):
        if first.setdefault(one.tobytes(), r) != r and len(completions) > 2:
            raise BadRecord("contradictory ranking: it has the same completion under two ranks")
    if len(first) < len(completions) and len(completions) > 2:
        counts["double"] += len(completions) - len(first)
    return [np.frombuffer(text, np.int32) for text in first], tuple(first.values())


def _fitted(
    rows: list[tuple[np.ndarray, list[np.ndarray], dict[str, Any]]],
    cfg: Dialogs,
    template: Template,
    counts: Counter[str],
) -> list[tuple[np.ndarray, list[np.ndarray], dict[str, Any]]]:
    """The rows that fit T, with prompts shortened to where their longest completion leaves room."""
    fitted = []
    counts["filled"] += bool(rows) and len(rows[0][0]) >= cfg.seq_len
    for prompt, completions, facts in rows:
        room = cfg.seq_len - max(map(len, completions))
        shortened = dialogs.shorten(prompt, room, template.tokenizer.bos)
        if shortened is None or (cfg.too_long == "drop" and len(shortened) < len(prompt)):
            counts["long"] += 1
            continue
        counts["shortened"] += len(shortened) < len(prompt)
        fitted.append((shortened, completions, facts))
    return fitted


def about(records: Records, one: TokenisedComparisons) -> Iterator[str]:
    """The lines about a source for the table."""
    counts = one.counts
    lengths = np.diff(one.bounds, axis=1)
    there = one.rank >= 0
    prompt, completion = lengths[:, 0].mean(), lengths[:, 1:][there].mean()
    yield (
        f"format {counts['format']}: {counts['kept']:,} of {_read_of(counts)} used, in {len(one.number):,} rows; "
        f"{prompt:.0f} tokens a prompt, {completion:.0f} a completion"
    )
    yield from summary.changes([*_left_out(records, one), *records.notes], counts["unused"])
    yield from counts["columns"]


def _read_of(counts: Mapping[str, Any]) -> str:
    if counts["format"] == "tree":
        return f"{counts['items']:,} messages with ranked replies (in {counts['read']:,} trees)"
    return f"{counts['read']:,} records"


def _left_out(records: Records, one: TokenisedComparisons) -> Iterator[str]:
    yield from (line.format(one.counts[name]) for name, line in _COUNTS.items() if one.counts.get(name))
    yield from summary.unwritten(one.counts)
    yield from summary.skips(records, one.listed)
