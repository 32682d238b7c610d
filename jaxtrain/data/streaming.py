"""The data of a run that trains while they are tokenised (--streaming): `prepare` does what pipeline.prepare does.

What must be known at once is made of the first records of each source: those that are held out, where the source has no
split for that, and the text that a BPE is trained on.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxtrain.config import Corpus
from jaxtrain.data import (
    held_out,
    mixture,
    pipeline,
    source_spec,
    sources,
    stream_files,
    summary,
    token_stream,
    tokenizer_training,
)
from jaxtrain.data.packed_rows import PackedRows
from jaxtrain.data.pipeline import DataPipeline, LocalRows
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.stream_files import StreamFiles
from jaxtrain.data.streamed_rows import StreamedRows
from jaxtrain.data.token_cache import Fim, tokenise
from jaxtrain.data.token_stream import StreamWriter, TokenStream
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache

_FORMAT = 1  # of the folder; part of its name
Opened = list[tuple[DataSource, Records]]


def prepare(
    cfg: Corpus, *, seed: int, tokenizer: Tokenizer | None = None, local_rows: LocalRows = np.arange
) -> DataPipeline:
    """Starts to tokenise --data, and returns as soon as the held-out documents are tokenised."""
    source_spec.check(cfg)
    train, held, paths = _open(cfg)
    tokenizer, about = tokenizer_training.given_or_made(cfg, train, tokenizer)
    pipeline.check_needs(cfg, tokenizer)
    fim = Fim(cfg.fim_rate, seed) if cfg.objective == "fim" else None

    def make(flag: str, source: DataSource, records: Records) -> PackedRows | None:
        if any(records is one for _, one in train):
            return None
        field, folder = sources.text_field(source, cfg), sources.cache_dir(cfg)
        documents = tokenise(
            records, tokenizer, field, cfg.on_bad_record, folder, fim, flag, cfg.data_workers
        )
        return PackedRows(documents, tokenizer, cfg.seq_len)

    _, eval_rows = held_out.rows_of(cfg, train, held, make)
    streams = [
        _stream(cfg, source, files, records, tokenizer, fim)
        for (source, records), files in zip(train, paths, strict=True)
    ]
    seeds = np.random.SeedSequence(seed).generate_state(len(streams) + 1).tolist()
    rows = [
        StreamedRows(stream, cfg.seq_len, one, StreamWriter(stream))
        for stream, one in zip(streams, seeds[1:], strict=True)
    ]
    mixed = (_mixed(cfg, rows, train), seeds[0])
    return pipeline.assembled(
        cfg, tokenizer, about, pipeline.train_stream(cfg, mixed, tokenizer, local_rows), held, eval_rows,
        table=_table(cfg, streams, held, eval_rows), data=cache.digest(*(stream.folder.name for stream in streams)),
        local_rows=local_rows,
    )  # fmt: skip


def _open(cfg: Corpus) -> tuple[Opened, Opened, list[list[Path] | None]]:
    """(the first records of each source without those that are held out, the held-out records, its files)."""
    train, held, paths = [], [], []
    for source in source_spec.parse(cfg.data):
        files = stream_files.of_source(source, cfg)
        if files is None:
            chosen, first = None, token_stream.head(source, cfg)
        else:
            chosen = files.of_main(source)
            first = token_stream.head(source, cfg, chosen, files.fingerprint(chosen))
        if not cfg.eval_data:
            own = _own_split(source, cfg, files)
            if own is None:
                first, own = sources.hold_out(first, cfg.eval_share)
            held.append((source, own))
        train.append((source, first))
        paths.append(chosen)
    if cfg.eval_data:
        held = [
            (source, _eval_records(source, cfg)) for source in source_spec.parse(cfg.eval_data, "eval_data")
        ]
    return train, held, paths


def _own_split(source: DataSource, cfg: Corpus, files: StreamFiles | None) -> Records | None:
    """The records of a source's own validation or test split; None where it has none."""
    if files is None:
        _, own = sources.train_and_held_out(source, cfg)
        return own if own is not None and own.index is None else None
    split = sources.held_out_split(tuple(files.splits), source)
    return sources.of_files(files.of(split), split, source, cfg, "data") if split else None


def _eval_records(source: DataSource, cfg: Corpus) -> Records:
    """The records of an --eval_data source; of the Hub's files those of one split are fetched."""
    files = stream_files.of_source(source, cfg, "eval_data") if source.kind == "hf" else None
    if files is None:
        return sources.all_of(source, cfg)
    split = sources.eval_split(tuple(files.splits), source)
    return sources.of_files(files.of(split), split, source, cfg, "eval_data")


def _stream(
    cfg: Corpus,
    source: DataSource,
    paths: list[Path] | None,
    first: Records,
    tokenizer: Tokenizer,
    fim: Fim | None,
) -> TokenStream:
    """The stream of a source, without the records that are held out of the first ones."""
    held = np.zeros(0, np.int64) if first.index is None else np.setdiff1d(np.arange(first.size), first.index)
    field = sources.text_field(source, cfg)
    name = cache.digest(
        "stream",
        _FORMAT,
        first.fingerprint,
        tokenizer.fingerprint,
        field,
        cfg.on_bad_record,
        fim,
        held.tolist(),
    )
    plain = dataclasses.replace(cfg, data=source.label)
    folder = sources.cache_dir(cfg) / "tokens" / f"{name}.stream"
    return TokenStream(source, plain, paths, held, tokenizer, fim, folder)


def _mixed(cfg: Corpus, rows: list[StreamedRows], train: Opened):
    """A grain data set of the rows of all streams, by the weights of their sources."""
    import grain

    return mixture.mixed(
        [grain.MapDataset.source(one) for one in rows], [source for source, _ in train], cfg.batch_size
    )


def _table(
    cfg: Corpus, streams: list[TokenStream], held: Opened, eval_rows: list[PackedRows]
) -> Iterator[summary.Line]:
    for stream in streams:
        name = f"train {stream.source.path_label}"
        found = list(token_stream.about(stream))
        ready = len(list(stream.folder.glob("[0-9]*")))
        yield from ((name, line) for line in found)
        if not found:
            yield name, f"streaming: it is tokenised while the run trains; {ready:,} parts are there"
        yield (
            name,
            f"rows of {cfg.seq_len} are shuffled within windows of documents, the windows after the first pass",
        )
        if len(stream.held):
            yield name, f"{len(stream.held):,} of the first {token_stream.HEAD:,} documents are held out"
    for (_, records), rows in zip(held, eval_rows, strict=True):
        yield from summary.about_rows(f"held out {records.label}", records, rows, cfg)
