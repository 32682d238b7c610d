"""The table of a run's data: what was read of each source, and what was left out."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtrain.config import Corpus, Data
from jaxtrain.data import mixture
from jaxtrain.data.packed_rows import PackedRows
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records

UNWRITTEN = "unwritten "  # before the kind of what a chat template does not write, in counts
Line = tuple[str, str]
Opened = Sequence[tuple[DataSource, Records]]


def table(
    cfg: Corpus,
    train: Opened,
    train_rows: Sequence[PackedRows],
    held_out: Opened,
    eval_rows: Sequence[PackedRows],
) -> Iterator[Line]:
    """(name, value) lines on each source, on what was left out and where that is listed, and on the mix."""
    for side, opened, sets in (("train", train, train_rows), ("held out", held_out, eval_rows)):
        for (_, records), rows in zip(opened, sets, strict=True):
            yield from about_rows(f"{side} {records.label}", records, rows, cfg)
    yield from mix(cfg, train, [len(rows) for rows in train_rows], held_out)


def mix(cfg: Data, train: Opened, sizes: Sequence[int], held_out: Opened) -> Iterator[Line]:
    """(name, value) lines on each source's share and epoch, and on held-out documents that are trained on.

    `sizes` are the rows of the training sources.
    """
    sources = [source for source, _ in train]
    shares = {step: _shares(mixture.weights_at(sources, step)) for step in mixture.steps(sources)}
    for place, ((_, records), size) in enumerate(zip(train, sizes, strict=True)):
        share = max(each[place] for each in shares.values())
        epoch = size / (cfg.batch_size * share)
        part = f"{share:.0%} of the rows, " if len(train) > 1 else ""
        if len(shares) > 1:
            parts = ", ".join(f"{each[place]:.0%} from step {step:,}" for step, each in shares.items())
            part = f"{parts} of the rows; at most of them "
        yield f"train {records.label}", f"{part}an epoch is {epoch:,.1f} batches of {cfg.batch_size}"
        if epoch < 1:
            rows = f"{size:,} row{'s' * (size != 1)}"
            yield (
                "warning",
                f"{records.label} has {rows}, so that a batch has each {1 / epoch:,.1f} times on average",
            )
    seen = {records.fingerprint for _, records in train}
    if any(records.fingerprint in seen for _, records in held_out):
        yield "warning", "the held-out documents are training documents: the held-out loss is meaningless"


def _shares(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def changes(left_out: Sequence[str], fields: Mapping[str, int]) -> Iterator[str]:
    """Lines on what was left out of a source's records, or that nothing was, and on the fields that were not used."""
    yield from left_out
    yield from unused(fields, "fields not used")
    if not left_out:
        yield f"nothing {'else ' if fields else ''}cut, dropped or added"


def unused(fields: Mapping[str, int], what: str) -> Iterator[str]:
    """The line on fields of records that were not used, where there are any."""
    if fields:
        yield f"{what}: {', '.join(f'{name} ({count:,})' for name, count in fields.items())}"


def unwritten(counts: Mapping[str, Any]) -> Iterator[str]:
    """The line on what the chat template does not write, where there is anything."""
    kinds = [
        f"{name.removeprefix(UNWRITTEN)} ({count:,})"
        for name, count in counts.items()
        if name.startswith(UNWRITTEN) and count
    ]
    if kinds:
        yield f"not written by the chat template: {', '.join(kinds)}"


def of_files(records: Records) -> Iterator[str]:
    """Lines on the bad records of a source's files, and on what else they left out."""
    if records.skipped:
        yield f"{records.skipped:,} bad records skipped, listed in {records.listed}"
    yield from records.notes


def skips(records: Records, listed: str) -> Iterator[str]:
    """Lines on the bad records of a source, before and during tokenisation, by kind of reason."""
    if records.skipped:
        yield f"{records.skipped:,} bad records skipped, listed in {records.listed}"
    with open(listed, encoding="utf-8") as file:
        kinds = Counter(json.loads(line)["reason"].partition(":")[0] for line in file)
    if kinds:
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        yield f"{kinds.total():,} bad records skipped ({reasons}), listed in {listed}"


def about_rows(name: str, records: Records, rows: PackedRows, cfg: Corpus) -> Iterator[Line]:
    """(name, value) lines on the packed documents of a source."""
    documents = rows.documents
    tokens = int(documents.pairs.sum()) - len(documents)  # without BOS and EOS
    yield (
        name,
        f"{len(documents):,} documents, {documents.size:,} bytes, {tokens:,} tokens, "
        f"{documents.size / tokens:.2f} bytes/token",
    )
    yield (
        name,
        f"{len(rows):,} rows of {cfg.seq_len}, {rows.padding:.1%} padding, {rows.split:,} documents cut into rows",
    )
    if documents.empty:
        yield name, f"{documents.empty:,} empty documents dropped"
    for count, listed in ((records.skipped, records.listed), (documents.skipped, documents.listed)):
        if count:
            yield name, f"{count:,} bad records skipped, listed in {listed}"
    yield from ((name, note) for note in records.notes)
    if off := int(abs(documents.slack).sum()):
        yield name, f"{off:,} bytes that the tokenizer adds or removes (counted as the text has them)"
