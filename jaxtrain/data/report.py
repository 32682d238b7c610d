"""What was read, for people."""

from collections.abc import Iterator, Sequence

from jaxtrain.config import Corpus
from jaxtrain.data.rows import PackedRows
from jaxtrain.data.sources import Records
from jaxtrain.data.spec import Source

Line = tuple[str, str]
Opened = Sequence[tuple[Source, Records]]


def table(
    cfg: Corpus,
    train: Opened,
    train_rows: Sequence[PackedRows],
    held_out: Opened,
    eval_rows: Sequence[PackedRows],
) -> Iterator[Line]:
    """(name, value) lines: what was read from each source, what was left out and where that is listed, and
    the mix.
    """
    for side, opened, sets in (("train", train, train_rows), ("held out", held_out, eval_rows)):
        for (_, records), rows in zip(opened, sets, strict=True):
            yield from _one(f"{side} {records.label}", records, rows, cfg)
    total = sum(source.weight for source, _ in train)
    for (source, records), rows in zip(train, train_rows, strict=True):
        share = source.weight / total
        epoch = len(rows) / (cfg.batch_size * share)
        mix = f"{share:.0%} of the rows, " if len(train) > 1 else ""
        yield f"train {records.label}", f"{mix}an epoch is {epoch:,.1f} batches of {cfg.batch_size}"
    seen = {records.fingerprint for _, records in train}
    if any(records.fingerprint in seen for _, records in held_out):
        yield "warning", "the held-out documents are training documents: the held-out loss says nothing"


def _one(name: str, records: Records, rows: PackedRows, cfg: Corpus) -> Iterator[Line]:
    found = rows.documents
    tokens = int(found.pairs.sum()) - len(found)  # without BOS and EOS
    yield (
        name,
        f"{len(found):,} documents, {found.size:,} bytes, {tokens:,} tokens, {found.size / tokens:.2f} bytes/token",
    )
    yield (
        name,
        f"{len(rows):,} rows of {cfg.seq_len}, {rows.padding:.1%} padding, {rows.split:,} documents cut into rows",
    )
    if found.empty:
        yield name, f"{found.empty:,} empty documents dropped"
    for count, listed in ((records.skipped, records.listed), (found.skipped, found.listed)):
        if count:
            yield name, f"{count:,} bad records skipped, listed in {listed}"
    if off := int(abs(found.slack).sum()):
        yield name, f"{off:,} bytes that the tokenizer adds or removes (counted as the text has them)"
