"""The data pipeline: `prepare` turns --data into training and held-out streams of batches, and a table of them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from jaxtrain.config import ConfigError, Corpus, Data
from jaxtrain.data import held_out as held_out_rows
from jaxtrain.data import (
    mixture,
    mlm_fim,
    packing,
    source_names,
    source_spec,
    sources,
    summary,
    tokenizer_training,
)
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.packed_rows import PackedRows, ShuffledSets
from jaxtrain.data.source_spec import DataSource
from jaxtrain.data.sources import Records
from jaxtrain.data.token_cache import Fim, tokenise
from jaxtrain.data.tokenizer import Tokenizer
from jaxtrain.files import cache

Batch = dict[str, np.ndarray]
# Rows of a global batch -> i64[n], ascending: numbers of those that this process supplies. np.arange: all of them.
LocalRows = Callable[[int], np.ndarray]


class Stream:
    """A data loader: global batches by number, of which this process has its rows; the number is all its state.

    Batch i is the same for any number of processes, threads, and batches fetched ahead. A finite stream has
    a length.
    """

    def __init__(
        self, row: Callable[[int], Row], batch_size: int, local_rows: LocalRows, length: int | None = None
    ):
        self._row, self._batch_size, self._length = row, batch_size, length
        self._local_rows = local_rows(batch_size)

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("this stream is endless")
        return self._length

    def batch(self, i: int) -> Batch:
        """This process's rows of global batch i."""
        if i < 0 or (self._length is not None and i >= self._length):
            raise IndexError(f"batch {i} of {self._length}")
        rows = [self._row(i * self._batch_size + r) for r in self._local_rows.tolist()]
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return stacked | {"row": self._local_rows.astype(np.int32)}

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """Batches from number `start` on, prepared ahead by threads."""
        import grain

        stop = sys.maxsize if self._length is None else self._length
        ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        return iter(grain.MapDataset.range(start, stop).map(self.batch).to_iter_dataset(ahead))

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate()


@dataclass(frozen=True)
class DataPipeline:
    """A run's data. `table` describes it as (name, value) lines; `fingerprints` identify it."""

    tokenizer: Tokenizer
    train: Stream
    eval: Stream
    table: list[tuple[str, str]]
    fingerprints: dict[str, str]
    single_turn: bool = field(default=False, kw_only=True)  # whether every conversation has one answer
    eval_by_source: dict[str, Stream] = field(default_factory=dict, kw_only=True)  # name -> its own


def prepare(
    cfg: Corpus, *, seed: int, tokenizer: Tokenizer | None = None, local_rows: LocalRows = np.arange
) -> DataPipeline:
    """Reads, tokenises and packs --data, from the cache where it can.

    `tokenizer` None loads or trains the one that --tokenizer names. A batch has tokens, targets, segments,
    positions i32[B, T], mask f32[B, T], row i32[B] and bytes f32[B]; the last held-out batch is filled up with rows of
    mask 0. Held-out next-token rows, where the data has it, have logp f32[B], the exact log-probability of the row's
    documents in nats, and has_logp f32[B], 1 where it is known. Raises ConfigError for whatever is wrong with the data.
    """
    source_spec.check(cfg)
    train, held_out = open_sources(cfg)
    tokenizer, about = tokenizer_training.given_or_made(cfg, train, tokenizer)
    check_needs(cfg, tokenizer)
    fim = Fim(cfg.fim_rate, seed) if cfg.objective == "fim" else None

    def rows(flag: str, source: DataSource, records: Records) -> PackedRows:
        field, folder = sources.text_field(source, cfg), sources.cache_dir(cfg)
        documents = tokenise(
            records, tokenizer, field, cfg.on_bad_record, folder, fim, flag, cfg.data_workers
        )
        return PackedRows(documents, tokenizer, cfg.seq_len)

    train_rows, eval_rows = held_out_rows.rows_of(cfg, train, held_out, rows)
    mixed = mixed_rows(train_rows, train, seed, cfg.batch_size)
    table = summary.table(cfg, train, train_rows, held_out, eval_rows)
    data = cache.digest(*(rows.documents.fingerprint for rows in train_rows))
    return assembled(
        cfg, tokenizer, about, train_stream(cfg, mixed, tokenizer, local_rows), held_out, eval_rows,
        table=table, data=data, local_rows=local_rows,
    )  # fmt: skip


def assembled(
    cfg: Corpus,
    tokenizer: Tokenizer,
    about: str,
    train: Stream,
    held_out: Sequence[tuple[DataSource, Records]],
    eval_rows: Sequence[PackedRows],
    *,
    table: Sequence[tuple[str, str]],
    data: str,
    local_rows: LocalRows,
) -> DataPipeline:
    """The stream to train on, whose data have the fingerprint `data`, with those of the held-out rows."""
    by_source = zip(source_names.short_names([source for source, _ in held_out]), eval_rows, strict=True)
    return DataPipeline(
        tokenizer=tokenizer,
        train=train,
        eval=eval_stream(cfg, eval_rows, tokenizer, local_rows),
        eval_by_source={name: eval_stream(cfg, [own], tokenizer, local_rows) for name, own in by_source},
        table=[
            ("tokenizer", f"{tokenizer.vocab_size:,} tokens: {about}"),
            *(("tokenizer", note) for note in tokenizer.notes),
            *table,
        ],
        fingerprints={
            "data": data,
            "eval_data": cache.digest(*(rows.documents.fingerprint for rows in eval_rows)),
            "tokenizer": tokenizer.fingerprint,
            "grain": metadata.version("grain"),  # its shuffle decides the order of rows
        },
    )


def open_sources(
    cfg: Data,
    fields: sources.Fields = sources.TEXT,
    view: Callable[[Records], Records] = lambda records: records,
) -> tuple[list[tuple[DataSource, Records]], list[tuple[DataSource, Records]]]:
    """The sources of --data to train on, and those held out, with their records (sources.train_and_held_out)."""
    train, held_out = [], []
    for source in source_spec.parse(cfg.data):
        records, held = sources.train_and_held_out(source, cfg, fields, view)
        train.append((source, records))
        if held is not None:
            held_out.append((source, held))
    if cfg.eval_data:
        held_out = [
            (source, view(sources.all_of(source, cfg, fields)))
            for source in source_spec.parse(cfg.eval_data, "eval_data")
        ]
    return train, held_out


def check_needs(cfg: Corpus, tokenizer: Tokenizer) -> None:
    """Raises ConfigError where the tokenizer lacks a token that the objective needs."""
    missing = {"masked": tokenizer.mask is None, "fim": tokenizer.fim is None}
    if missing.get(cfg.objective):
        raise ConfigError(
            f"--objective={cfg.objective}: the tokenizer has no token for it "
            f"({', '.join(tokenizer_training.NEEDS[cfg.objective])}); start from a run or a tokenizer that has"
        )


def train_stream(cfg: Corpus, mixed: tuple[Any, int], tokenizer: Tokenizer, local_rows: LocalRows) -> Stream:
    """A stream of the rows of `mixed_rows`."""
    rows, mask_seed = mixed
    if cfg.objective == "masked":
        rows = rows.random_map(mlm_fim.mask_tokens(tokenizer, cfg.mask_rate), seed=mask_seed)
    lengths, masked = tokenizer.byte_lengths, cfg.objective == "masked"
    return Stream(lambda i: finish(rows[i], lengths, masked), cfg.batch_size, local_rows)


def mixed_rows(
    sets: Sequence[Sequence[Row]], train: Sequence[tuple[DataSource, Records]], seed: int, batch_size: int
) -> tuple[Any, int]:
    """(an endless mix of the rows of all sets by the weights of their sources, each set reshuffled each epoch; a
    seed for random changes of them).
    """
    import grain

    seeds = np.random.SeedSequence(seed).generate_state(len(sets) + 1).tolist()
    each = [
        grain.MapDataset.source(rows).shuffle(seed=s).repeat()
        for rows, s in zip(sets, seeds[1:], strict=True)
    ]
    return mixture.mixed(each, [source for source, _ in train], batch_size), seeds[0]


def eval_stream(
    cfg: Corpus, sets: Sequence[PackedRows], tokenizer: Tokenizer, local_rows: LocalRows
) -> Stream:
    """A stream of the held-out rows of all sets."""
    masked = cfg.objective == "masked"
    transform = mlm_fim.mask_tokens(tokenizer, cfg.mask_rate) if masked else None
    known = cfg.objective == "next_token" and any(rows.documents.logp is not None for rows in sets)
    extra = ("logp", "has_logp") if known else ()
    blank = packing.assemble((), cfg.seq_len, tokenizer.pad) | {"slack": np.float32(0)}

    def row(i: int, packed: Row) -> Row:
        if transform:
            # The same tokens are masked in every evaluation and run.
            packed = transform(packed, np.random.Generator(np.random.Philox(key=i)))
        return finish(packed, tokenizer.byte_lengths, masked, extra)

    return held_out_stream(sets, blank, row, cfg.batch_size, local_rows)


def held_out_stream(
    sets: Sequence[Sequence[Row]],
    blank: Row,
    finished: Callable[[int, Row], Row],
    batch_size: int,
    local_rows: LocalRows,
) -> Stream:
    """A stream of every row once, `finished` with its number, then `blank` ones to fill the last batch."""
    joined = ShuffledSets(sets)
    # Packed rows come longest documents first: shuffled, so that the first batches represent all.
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(joined))
    return Stream(
        lambda i: finished(i, joined[int(order[i])] if i < len(joined) else blank),
        batch_size,
        local_rows,
        -(-len(joined) // batch_size),
    )


def finish(row: Row, byte_lengths: np.ndarray, masked: bool = False, extra: tuple[str, ...] = ()) -> Row:
    """The row's columns of a batch, with the bytes behind its targets."""
    size = byte_lengths[row["targets"]][row["mask"] > 0].sum() + (0 if masked else row["slack"])
    columns = {name: row[name] for name in ("tokens", "targets", "mask", "segments", "positions")}
    return columns | {"bytes": np.float32(size)} | {name: row.get(name, np.float32(0)) for name in extra}
