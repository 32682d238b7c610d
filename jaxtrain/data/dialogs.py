"""Conversations as training data: tokenised once, packed into rows, with a loss mask on assistants' text alone."""

import copy
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxtrain.config import Dialogs
from jaxtrain.data import held_out as held_out_rows
from jaxtrain.data import (
    message_trees,
    packing,
    pipeline,
    record_fields,
    record_formats,
    source_spec,
    sources,
    summary,
)
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.chat import EncodedDialog, Template
from jaxtrain.data.conversations import Dialog
from jaxtrain.data.held_out import NoneUsable
from jaxtrain.data.messages import Message
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.packed_rows import PackedRows, WithColumns
from jaxtrain.data.pipeline import DataPipeline, LocalRows, Stream
from jaxtrain.data.record_fields import Column, FieldUse
from jaxtrain.data.record_formats import RecordFormat, Text
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.token_cache import Documents
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache
from jaxtrain.files.progress import bar

_FORMAT = 3  # of the folder; part of its name, and of no fingerprint
LEAST_BAR = 10_000  # records from which on progress is shown

# What is counted of a source, and its line in the table.
_COUNTS = {
    "trailing": "{:,} turns after the last answer left out",
    "cut": "{:,} conversations longer than --seq_len lost their last turns",
    "turns_cut": "{:,} answers in those turns",
    "shortened": "{:,} prompts lost their beginning",
    "filled": "{:,} prompts fill the context by themselves",
    "long": "{:,} conversations dropped: they do not fit --seq_len",
    "unlearnt": "{:,} conversations dropped: nothing of them is in the loss",
    "empty": "{:,} empty texts dropped",
    "rewritten": "{:,} conversations became several rows: the template rewrites earlier turns, so that an answer "
    "stands at the end of a row of its own",
    "rewritten_rows": "{:,} rows of those",
    "added": "{:,} answers had no end token in the template: EOS added",
}


def prepare(
    cfg: Dialogs,
    *,
    seed: int,
    tokenizer: Tokenizer,
    template: Template,
    local_rows: LocalRows = np.arange,
    beside: Callable[[PackedRows], Sequence[Row]] | None = None,
) -> DataPipeline:
    """The training and held-out streams of packed conversations, with the columns of pipeline.prepare's.

    `mask` is 1 where the target is of an assistant's text or ends its turn, and on every token of a plain
    text. A conversation that does not fit a row loses whole turns from its end, or, where its first exchange
    alone does not fit, the start of its prompt, or is dropped; plain texts continue in the next row. `beside` returns
    further columns of packed rows. The tokenizer of the result carries the template. Raises ConfigError for whatever
    is wrong with the data.
    """
    source_spec.check(cfg)
    columns = record_fields.columns_of(cfg.columns)
    train, held_out = pipeline.open_sources(cfg, None, message_trees.assembled)
    record_formats.require_columns(columns, [records for _, records in train], cfg)
    make = functools.partial(_rows, cfg=cfg, template=template, columns=columns)
    sides = held_out_rows.rows_of(cfg, train, held_out, make)
    lengths = tokenizer.byte_lengths
    blank = packing.assemble((), cfg.seq_len, tokenizer.pad) | {"slack": np.float32(0)}
    sets, extra = [[rows for rows, _ in side] for side in sides], ()
    if beside is not None:
        sets = [[WithColumns(rows, beside(rows)) for rows in side] for side in sets]
        further = {name: np.zeros_like(x) for name, x in sets[0][0][0].items() if name not in blank}
        blank, extra = blank | further, tuple(further)
    endless, _ = pipeline.mixed_rows(sets[0], train, seed, cfg.batch_size)
    lines = [
        (f"{side} {records.label}", line)
        for side, opened, tokenised in zip(("train", "held out"), (train, held_out), sides, strict=True)
        for (_, records), (rows, counts) in zip(opened, tokenised, strict=True)
        for line in _about(records, rows, counts, cfg)
    ]
    return DataPipeline(
        tokenizer=with_template(tokenizer, template),
        train=Stream(lambda i: pipeline.finish(endless[i], lengths, extra=extra), cfg.batch_size, local_rows),
        eval=pipeline.held_out_stream(
            sets[1],
            blank,
            lambda i, row: pipeline.finish(row, lengths, extra=extra),
            cfg.batch_size,
            local_rows,
        ),
        table=[
            *about_template(template),
            *lines,
            *summary.mix(cfg, train, [len(rows) for rows, _ in sides[0]], held_out),
        ],
        fingerprints=fingerprints(
            template, *([rows.documents.fingerprint for rows, _ in side] for side in sides)
        ),
        single_turn=all(_single_turn(counts) for _, counts in sides[0]),
    )


def _single_turn(counts: Mapping[str, int]) -> bool:
    """Whether every conversation of a source has one answer; not where some are plain texts, or lost turns."""
    answers = counts["turns"] + counts.get("context", 0) + counts.get("turns_cut", 0)
    return answers == counts["kept"] > 0


def with_template(tokenizer: Tokenizer, template: Template) -> Tokenizer:
    """A copy of the tokenizer with the template as its own, so that a run saves both."""
    copied = copy.copy(tokenizer)
    copied.chat_template = template.source
    return copied


def about_template(template: Template) -> Iterator[tuple[str, str]]:
    """(name, value) lines about the tokenizer and template for the table."""
    tokenizer = template.tokenizer
    name = "auto, the tokenizer's own" if template.name == "auto" else template.name
    ends = next(text for text, i in tokenizer.specials.items() if i == template.end)
    yield "tokenizer", f"{tokenizer.vocab_size:,} tokens: that of the run or model it starts from"
    yield from (("tokenizer", note) for note in tokenizer.notes)
    yield "template", f"{name}; {ends} ends an answer"
    yield from (("template", note) for note in template.notes)


def fingerprints(template: Template, train: Sequence[str], held_out: Sequence[str]) -> dict[str, str]:
    """The fingerprints of data, tokenizer and template."""
    return {
        "data": cache.digest(*train),
        "eval_data": cache.digest(*held_out),
        "tokenizer": template.tokenizer.fingerprint,
        "template": template.fingerprint,
        "grain": metadata.version("grain"),  # its shuffle decides the order of rows
    }


def with_system(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """The messages, after a system message where they have none and `system` is not empty."""
    if not system or any(message["role"] in ("system", "developer") for message in messages):
        return messages
    return ({"role": "system", "content": system}, *messages)


def shorten(prompt: np.ndarray, room: int, bos: int) -> np.ndarray | None:
    """The last ids of a prompt that fit `room`, after its BOS where it starts with one.

    None where no id but the BOS would be left of a prompt that has others.
    """
    if len(prompt) <= room:
        return prompt
    keep = int(len(prompt) > 0 and prompt[0] == bos)
    if room - keep < 1:
        return None
    return np.concatenate([prompt[:keep], prompt[len(prompt) - (room - keep) :]])


def fit_dialog(
    turns: EncodedDialog, limit: int, bos: int, policy: str, counts: Counter[str]
) -> tuple[Any, Any] | None:
    """(ids, loss mask) of at most `limit` ids, or None where nothing fits; counts what was left out."""
    if turns.starts[0] >= limit:
        counts["filled"] += 1
    if turns.ends[-1] <= limit:
        return turns.ids, turns.loss_mask
    whole = sum(end <= limit for end in turns.ends)
    start, end = turns.starts[0], turns.ends[0]
    prompt = None
    if policy == "cut" and not whole:
        prompt = shorten(turns.ids[:start], limit - (end - start), bos)
    if policy == "drop" or (not whole and prompt is None):
        counts["long"] += 1
        return None
    if len(turns.ends) > max(whole, 1):
        counts["cut"] += 1
        counts["turns_cut"] += len(turns.ends) - max(whole, 1)
    if whole:
        end = turns.ends[whole - 1]
        return turns.ids[:end], turns.loss_mask[:end]
    counts["shortened"] += 1
    loss_mask = np.concatenate([np.zeros(len(prompt), bool), turns.loss_mask[start:end]])
    return np.concatenate([prompt, turns.ids[start:end]]), loss_mask


def _rows(
    flag: str,
    source: DataSource,
    records: Records,
    cfg: Dialogs,
    template: Template,
    columns: Sequence[Column],
) -> tuple[PackedRows, dict[str, Any]]:
    field, tokenizer = sources.text_field(source, cfg), template.tokenizer
    form = record_formats.detect(records, source, record_formats.chat(field), flag, columns)
    mark = (
        1,
        records.fingerprint,
        tokenizer.fingerprint,
        template.fingerprint,
        form.name,
        field if form.name == "text" else "",
        cfg.system,
        cfg.too_long,
        cfg.seq_len,
        cfg.on_bad_record,
        *form.columns,
    )
    path = cache.build(
        sources.cache_dir(cfg) / "dialogs" / cache.digest(_FORMAT, *mark),
        lambda work: _fill(work, records, form, cfg, template),
    )
    counts = json.loads((path / "counts.json").read_text())
    if not counts["kept"]:
        raise NoneUsable(
            f"--{flag}={source.label}: no conversation left of {counts['read']:,}: "
            f"{'; '.join(_left_out(records, path / 'skipped.jsonl', counts)) or 'it is empty'}"
        )
    offsets = np.load(path / "offsets.npy")
    documents = Documents(
        ids=np.load(path / "ids.npy", mmap_mode="r").view(np.ndarray),
        offsets=offsets,
        slack=np.zeros(len(offsets) - 1, np.int32),
        logp=None,
        size=counts["bytes"],
        empty=counts.get("empty", 0),
        skipped=counts["bad"],
        listed=str(path / "skipped.jsonl"),
        fingerprint=cache.digest(*mark, *counts["further"]),
        loss_mask=np.load(path / "learn.npy", mmap_mode="r").view(np.ndarray),
    )
    about = {"format": form.name, "columns": [*record_formats.columns_line(columns, form)]}
    return PackedRows(documents, tokenizer, cfg.seq_len), counts | about


def _fill(work: Path, records: Records, form: RecordFormat, cfg: Dialogs, template: Template) -> None:
    skips, counts, use = Skips(cfg.on_bad_record), Counter[str](), FieldUse()
    counts.update(dict.fromkeys(("items", "kept", "turns", "loss", "bytes"), 0), read=len(records))
    dtype = np.uint16 if template.tokenizer.vocab_size <= 1 << 16 else np.uint32
    ids, loss_mask = [], []

    def encode(item: Any) -> list[tuple[Any, Any]]:
        if isinstance(item, Text):
            return _text(item, template.tokenizer, counts)
        return _encoded(item, cfg, template, counts)

    with bar(f"tokenising {records.label}"[:60], len(records), least=LEAST_BAR) as advance:
        for _, rows in record_formats.each(records, form, skips, encode, advance, use):
            counts["items"] += 1
            counts["kept"] += bool(rows)
            ids += [row_ids.astype(dtype) for row_ids, _ in rows]
            loss_mask += [mask.astype(np.uint8) for _, mask in rows]
    lengths = template.tokenizer.byte_lengths
    counts.update(
        loss=sum(int(one[1:].sum()) for one in loss_mask),
        bytes=sum(int(lengths[one].sum()) for one in ids),
        bad=len(skips),
    )
    np.save(work / "ids.npy", np.concatenate(ids) if ids else np.zeros(0, dtype))
    np.save(work / "learn.npy", np.concatenate(loss_mask) if loss_mask else np.zeros(0, np.uint8))
    np.save(work / "offsets.npy", np.cumsum([0, *map(len, ids)], dtype=np.int64))
    (work / "counts.json").write_text(json.dumps(dict(counts) | use.counts(), indent=1) + "\n")
    skips.save(work)


def _encoded(item: Dialog, cfg: Dialogs, template: Template, counts: Counter[str]) -> list[tuple[Any, Any]]:
    """The (ids, loss mask) of a conversation's rows that fit; counts what was left out."""
    messages = with_system(item.messages, cfg.system)
    rows = template.encode(messages, item.template_kwargs, limit=cfg.seq_len + 1)
    cut, fitted = counts["cut"], []
    for turns in rows:
        row = fit_dialog(turns, cfg.seq_len + 1, template.tokenizer.bos, cfg.too_long, counts)
        if row is None:
            continue
        if not row[1][1:].any():
            counts["unlearnt"] += 1
            continue
        turn_count = sum(end <= len(row[0]) for end in turns.ends) or 1
        learnt = [bool(turns.loss_mask[end - 1]) for end in turns.ends[:turn_count]]
        counts["turns"] += sum(learnt)
        counts["context"] += turn_count - sum(learnt)
        counts["added"] += sum(turns.added[:turn_count])
        fitted.append(row)
    if fitted:
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        counts["trailing"] += len(messages) - 1 - last
        if omitted := rows[-1].omitted:
            counts["turns_cut"] += omitted
            counts["cut"] += counts["cut"] == cut
    if len(rows) > 1:
        counts["rewritten"] += 1
        counts["rewritten_rows"] += len(fitted)
    counts.update(f"{summary.UNWRITTEN}{kind}" for kind in rows[0].unwritten)
    return fitted


def _text(item: Text, tokenizer: Tokenizer, counts: Counter[str]) -> list[tuple[Any, Any]]:
    if not item.text.strip():
        counts["empty"] += 1
        return []
    ids = np.concatenate([[tokenizer.bos], *tokenizer.encode([item.text]), [tokenizer.eos]])
    return [(ids, np.arange(len(ids)) > 0)]


def _about(records: Records, rows: PackedRows, counts: dict[str, Any], cfg: Dialogs) -> Iterator[str]:
    share = counts["loss"] / int(rows.documents.pairs.sum())
    several = counts["items"] > counts["read"]
    read = f"{counts['items']:,} conversations in {counts['read']:,} trees" if several else (
        f"{counts['read']:,} conversations"
    )  # fmt: skip
    if counts["format"] == "text":  # no turns, so no answers
        read = f"{counts['read']:,} texts"
    answers = "" if counts["format"] == "text" else f"{counts['turns']:,} answers, "
    loss = f"{counts['loss']:,} tokens in the loss ({share:.0%})"
    yield f"format {counts['format']}: {counts['kept']:,} of {read}, {answers}{loss}"
    if context := counts.get("context"):
        yield f"{context:,} other answers are part of prompts, not in the loss"
    split = f", {rows.split:,} texts cut into rows" if rows.split else ""
    yield f"{len(rows):,} rows of {cfg.seq_len}, {rows.padding:.1%} padding{split}"
    left_out = [*_left_out(records, rows.documents.listed, counts), *records.notes]
    yield from summary.changes(left_out, counts["unused"])
    yield from counts["columns"]


def _left_out(records: Records, listed: str | Path, counts: dict[str, Any]) -> Iterator[str]:
    yield from (line.format(counts[name]) for name, line in _COUNTS.items() if counts.get(name))
    yield from summary.unwritten(counts)
    yield from summary.skips(records, str(listed))
