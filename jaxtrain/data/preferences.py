"""Preference data: batches of N alternative completions of one prompt, and every row by its number."""

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import (
    dialogs,
    message_trees,
    pipeline,
    preference_cache,
    record_formats,
    source_spec,
    summary,
)
from jaxtrain.data import held_out as held_out_rows
from jaxtrain.data.chat import Template
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.pipeline import LocalRows, Stream
from jaxtrain.data.preference_cache import Choice, TokenisedComparisons
from jaxtrain.data.record_fields import columns_of
from jaxtrain.data.sources import Records
from jaxtrain.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class PreferenceData(pipeline.DataPipeline):
    """The data of a run on comparisons.

    `rows` are all rows by number, those to train on first, `train_rows` of them, then those held out; a batch's
    `index` is that number. `fields(i)` is the whole record that row i comes from.
    """

    rows: Sequence[Row]
    train_rows: int
    fields: Callable[[int], dict[str, Any]]


def prepare(
    cfg: Dialogs,
    *,
    seed: int,
    tokenizer: Tokenizer,
    template: Template,
    local_rows: LocalRows = np.arange,
    kind: str = "pairs",
    ties: str = "half",
    flat: bool = False,
    soft: bool = True,
    margin: float = 0.0,
) -> PreferenceData:
    """The training and held-out streams of comparisons of N alternatives.

    A batch has tokens, targets, segments, positions i32[B, N, T], mask f32[B, N, T] (1 where the target is of the
    completion or ends it), length i32[B, N] (ids of prompt and completion with its end token, all of them in
    tokens; 0 where there is no such alternative), row, index i32[B], prefer f32[B, N, N] (weight of "i beats
    j"), margin f32[B] and rank i32[B, N] (0 best, equal are ties, -1 absent). The last held-out batch is filled
    with rows of length 0 and index -1.

    `kind` pairs has N = 2, chosen first, and takes each pair of a ranking for a row. ranked has N of the longest
    ranking; a row's comparisons weigh 1 together, or each, where `flat`. unpaired has label f32[B] (1 desirable), a
    row's own completion first, then that of the next row with another prompt; of a pair it makes two rows.
    `ties` half counts a tie for both sides by half, drop leaves it out. `soft` takes `p_win` where a record has it.
    `margin` is that of training rows whose record has none. Completions are never cut: a prompt loses its beginning, or
    the row is dropped. Raises ConfigError.
    """
    train, held_out = _open(cfg)
    choice = Choice(kind, ties, flat, soft)
    make = functools.partial(preference_cache.tokenised, cfg=cfg, template=template, choice=choice)
    sides = held_out_rows.rows_of(cfg, train, held_out, make)
    sets = [*sides[0], *sides[1]]
    N = 2 if kind != "ranked" else max(one.rank.shape[1] for one in sets)
    firsts = list(itertools.accumulate([len(one.number) for one in sets], initial=0))
    margins = [margin] * len(train) + [0.0] * len(held_out)
    rows = [
        _Rows(*each, N, cfg.seq_len, tokenizer, choice)
        for each in zip(sets, firsts[:-1], margins, strict=True)
    ]
    ours, theirs = rows[: len(train)], rows[len(train) :]
    everything = _All(rows, firsts)
    endless, _ = pipeline.mixed_rows(ours, train, seed, cfg.batch_size)
    return PreferenceData(
        tokenizer=dialogs.with_template(tokenizer, template),
        train=Stream(lambda i: endless[i], cfg.batch_size, local_rows),
        eval=pipeline.held_out_stream(
            theirs, _blank(rows[0]), lambda i, row: row, cfg.batch_size, local_rows
        ),
        table=[
            *dialogs.about_template(template),
            *_about("train", train, sides[0]),
            *_about("held out", held_out, sides[1]),
            *summary.mix(cfg, train, [len(one) for one in ours], held_out),
        ],
        fingerprints=dialogs.fingerprints(template, *([one.fingerprint for one in side] for side in sides)),
        rows=everything,
        train_rows=firsts[len(train)],
        fields=lambda i: everything.record(i, [records for _, records in (*train, *held_out)]),
    )


def _open(cfg: Dialogs) -> tuple[summary.Opened, summary.Opened]:
    source_spec.check(cfg)
    if cfg.text_field != Dialogs.text_field:
        raise ConfigError(f"--text_field={cfg.text_field}: comparisons are not plain text; leave it out")
    train, held_out = pipeline.open_sources(cfg, None, message_trees.assembled)
    record_formats.require_columns(columns_of(cfg.columns), [records for _, records in train], cfg)
    return train, held_out


def _about(
    side: str, opened: summary.Opened, sets: Sequence[TokenisedComparisons]
) -> Iterator[tuple[str, str]]:
    for (_, records), one in zip(opened, sets, strict=True):
        for line in preference_cache.about(records, one):
            yield f"{side} {records.label}", line


class _Rows:
    """The rows of one set, padded to N alternatives of T."""

    def __init__(
        self,
        one: TokenisedComparisons,
        first: int,
        margin: float,
        N: int,
        T: int,
        tokenizer: Tokenizer,
        choice: Choice,
    ):
        self.set, self._first, self._N, self._T = one, first, N, T
        self._tokenizer, self._choice = tokenizer, choice
        self._margin = np.where(np.isnan(one.margin), np.float32(margin), one.margin)

    def __len__(self) -> int:
        return len(self.set.number)

    def __getitem__(self, r: int) -> Row:
        r = int(r)
        rank = np.full(self._N, -1, np.int32)
        if self._choice.kind == "unpaired":
            pairs = [self._alternative(r, r, 0), self._alternative(r, int(self.set.other[r]), 0)]
            rank[0] = 0
        else:
            there = int((self.set.rank[r] >= 0).sum())
            rank[:there] = self.set.rank[r, :there]
            pairs = [self._alternative(r, r, j) for j in range(there)]
        row = alternatives(pairs, self._N, self._T, self._tokenizer.pad) | {
            "index": np.int32(self._first + r),
            "prefer": prefer(rank, float(self.set.p_win[r]), self._choice.ties, self._choice.flat),
            "margin": self._margin[r],
            "rank": rank,
        }
        return row | ({"label": self.set.label[r]} if self._choice.kind == "unpaired" else {})

    def _alternative(self, r: int, by: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids of row r's prompt, ids of completion j of row `by`)."""
        one = self.set
        completion = one.ids[one.bounds[by, 1 + j] : one.bounds[by, 2 + j]]
        prompt = one.ids[one.bounds[r, 0] : one.bounds[r, 1]]
        room = self._T - len(completion)
        shortened = dialogs.shorten(prompt, room, self._tokenizer.bos)
        # Another row's completion may leave room for the BOS alone.
        return (prompt[:room] if shortened is None else shortened), completion


class _All:
    """The rows of several sets by number."""

    def __init__(self, sets: Sequence[_Rows], firsts: list[int]):
        self._sets, self._firsts = sets, firsts

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, i: int) -> Row:
        k, r = self._where(i)
        return self._sets[k][r]

    def record(self, i: int, records: Sequence[Records]) -> dict[str, Any]:
        k, r = self._where(i)
        return records[k][int(self._sets[k].set.number[r])]

    def _where(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        k = bisect.bisect_right(self._firsts, i) - 1
        return k, i - self._firsts[k]


def alternatives(pairs: Sequence[tuple[np.ndarray, np.ndarray]], N: int, T: int, pad: int) -> Row:
    """tokens, targets, segments, positions i32[N, T], mask f32[N, T] and length i32[N] of (prompt, completion)s.

    Raises ValueError where one does not fit T.
    """
    row = {
        "tokens": np.full((N, T), pad, np.int32),
        "targets": np.full((N, T), pad, np.int32),
        "mask": np.zeros((N, T), np.float32),
        "segments": np.zeros((N, T), np.int32),
        "positions": np.zeros((N, T), np.int32),
        "length": np.zeros(N, np.int32),
    }
    for j, (prompt, completion) in enumerate(pairs):
        ids = np.concatenate([prompt, completion])
        n = len(ids)
        if n > T:
            raise ValueError(f"alternative {j} has {n} ids, more than {T}")
        row["tokens"][j, :n] = ids
        row["targets"][j, : n - 1] = ids[1:]
        row["mask"][j, max(len(prompt) - 1, 0) : n - 1] = 1
        row["segments"][j, :n] = 1
        row["positions"][j, :n] = np.arange(n)
        row["length"][j] = n
    return row


def prefer(rank: np.ndarray, p_win: float, ties: str, flat: bool) -> np.ndarray:
    """f32[N, N], the weight of "i beats j": 1 for each decided comparison, halves or nothing for a tie.

    p_win, where not NaN, and its rest stand for the comparison of two. All are divided by how many comparisons
    count, unless `flat`. Alternatives of rank -1 take no part.
    """
    there = rank >= 0
    both = there[:, None] & there[None, :]
    weights = (both & (rank[:, None] < rank[None, :])).astype(np.float32)
    if not np.isnan(p_win):
        weights[0, 1], weights[1, 0] = p_win, 1 - p_win
    elif ties == "half":
        weights += 0.5 * (both & (rank[:, None] == rank[None, :]) & ~np.eye(len(rank), dtype=bool))
    total = weights.sum()
    return (weights if flat or total <= 1 else weights / total).astype(np.float32)


def _blank(rows: _Rows) -> Row:
    """An empty row, with the columns of the others."""
    example = rows[0]
    empty = alternatives((), *example["tokens"].shape, rows._tokenizer.pad)
    rest = {name: np.zeros_like(value) for name, value in example.items() if name not in empty}
    return empty | rest | {"index": np.int32(-1), "rank": np.full_like(example["rank"], -1)}
