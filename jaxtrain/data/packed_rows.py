"""Rows of packed documents as random-access sequences."""

from collections.abc import Sequence

import numpy as np

from jaxtrain.data import packing
from jaxtrain.data.mlm_fim import Row
from jaxtrain.data.token_cache import Documents
from jaxtrain.data.tokenizer import Tokenizer


class PackedRows:
    """Rows of T = `size` from documents.

    A row has what `packing.assemble` gives, `slack` (f32[], UTF-8 bytes of its documents that the
    tokenizer's table does not account for) and, where documents have a log-probability, `logp` (f32[], their
    sum in nats) and `has_logp` (1 where every document in the row has one and is whole in it, else 0, and
    then logp is 0).
    """

    def __init__(self, documents: Documents, tokenizer: Tokenizer, size: int):
        self.documents = documents
        self._pad, self._size = tokenizer.pad, size
        self._pieces = packing.cut(documents.pairs, size)
        self._plan = packing.pack(self._pieces.length, size)
        self.split = int((documents.pairs > size).sum())  # documents longer than a row
        self.padding = 1 - int(documents.pairs.sum()) / (
            len(self) * size
        )  # share of positions that hold nothing

    def __len__(self) -> int:
        return len(self._plan.bounds) - 1

    def __getitem__(self, r: int) -> Row:
        at = self._plan.order[self._plan.bounds[r] : self._plan.bounds[r + 1]]
        document, start, length = (column[at] for column in self._pieces)
        first = self.documents.offsets[document] + start
        ids, loss_mask = self.documents.ids, self.documents.loss_mask
        pieces = [
            (
                ids[a : a + n + 1],
                np.ones(n, np.float32) if loss_mask is None else loss_mask[a + 1 : a + n + 1],
            )
            for a, n in zip(first.tolist(), length.tolist(), strict=True)
        ]
        row = packing.assemble(pieces, self._size, self._pad)
        row["slack"] = np.float32(self.documents.slack[document[start == 0]].sum())
        if self.documents.logp is not None:
            logp = self.documents.logp[document]
            ends = self.documents.offsets[document + 1] - 1  # where the pairs of each document end
            whole = bool((first + length == ends).all() and (start == 0).all() and not np.isnan(logp).any())
            row["logp"] = np.float32(logp.sum() if whole else 0.0)
            row["has_logp"] = np.float32(whole)
        return row


class WithColumns:
    """Rows with further columns, those of other rows of the same number."""

    def __init__(self, rows: Sequence[Row], more: Sequence[Row]):
        if len(rows) != len(more):
            raise ValueError(f"{len(more)} rows do not match {len(rows)}")
        self._rows, self._more = rows, more

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, r: int) -> Row:
        return self._rows[r] | self._more[r]


class ShuffledSets:
    """The rows of several sets, in an order shuffled once."""

    def __init__(self, sets: Sequence[Sequence[Row]]):
        sizes = [len(rows) for rows in sets]
        self._sets = sets
        self._set = np.repeat(np.arange(len(sets)), sizes)
        self._row = np.concatenate([np.arange(n) for n in sizes])
        self._order = np.random.Generator(np.random.Philox(0)).permutation(sum(sizes))

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, r: int) -> Row:
        at = self._order[r]
        return self._sets[self._set[at]][self._row[at]]
