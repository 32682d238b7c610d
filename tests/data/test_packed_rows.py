"""Rows of packed documents: their columns by hand, and sets of rows side by side and one after the other."""

import numpy as np
import pytest

from jaxtrain.data.packed_rows import PackedRows, ShuffledSets, WithColumns
from jaxtrain.data.token_cache import Documents
from jaxtrain.data.tokenizer import ByteTokenizer

KIND = ByteTokenizer()


def documents(*texts, **columns):
    ids = [np.array([KIND.bos, *text.encode(), KIND.eos], np.uint16) for text in texts]
    about = dict(size=0, empty=0, skipped=0, listed="", fingerprint="f", logp=None)
    return Documents(
        ids=np.concatenate(ids),
        offsets=np.cumsum([0, *map(len, ids)]),
        slack=np.zeros(len(ids), np.int32),
        **about | columns,
    )


def whole(rows):
    """(texts of a row, row) of all rows, a document's piece between bars."""
    for r in range(len(rows)):
        row = rows[r]
        pieces = [row["targets"][row["segments"] == n] for n in range(1, row["segments"].max() + 1)]
        yield "|".join(KIND.decode(piece) for piece in pieces), row


def test_documents_are_packed_and_long_ones_cut():
    rows = PackedRows(documents("abc", "de", "0123456789"), KIND, 8)
    found = dict(whole(rows))
    assert set(found) == {"01234567", "abc|de", "89"} or set(found) == {"01234567", "abc|89", "de"}
    assert rows.split == 1 and rows.padding == pytest.approx(1 - (4 + 3 + 11) / 24)
    assert sum(row["mask"].sum() for row in found.values()) == 18
    row = found["01234567"]
    assert row["tokens"].tolist() == [KIND.bos, *b"0123456"] and row["targets"].tolist() == [*b"01234567"]


def test_the_loss_mask_is_that_of_the_targets():
    (row,) = (
        row
        for _, row in whole(PackedRows(documents("ab", loss_mask=np.array([1, 0, 1, 1], np.uint8)), KIND, 5))
    )
    assert row["mask"].tolist() == [0, 1, 1, 0, 0]  # of a, b and EOS; BOS is no target


def test_log_probabilities_are_of_rows_whose_documents_are_whole_and_known():
    rows = PackedRows(documents("abc", "de", logp=np.array([-1.5, -2.0])), KIND, 8)
    ((_, row),) = whole(rows)
    assert (row["logp"], row["has_logp"]) == (-3.5, 1)
    ((_, row),) = whole(PackedRows(documents("abc", "de", logp=np.array([-1.5, np.nan])), KIND, 8))
    assert (row["logp"], row["has_logp"]) == (0, 0)
    cut = PackedRows(documents("abcdefgh", logp=np.array([-1.5])), KIND, 5)
    assert all((row["logp"], row["has_logp"]) == (0, 0) for _, row in whole(cut))
    assert all("logp" not in row for _, row in whole(PackedRows(documents("abc"), KIND, 8)))


def test_slack_counts_where_a_document_starts():
    found = documents("abcdefgh", "i")
    found.slack[:] = 3, 1
    rows = PackedRows(found, KIND, 6)
    assert sum(row["slack"] for _, row in whole(rows)) == 4
    assert {text: float(row["slack"]) for text, row in whole(rows)}["abcdef"] == 3


def test_columns_stand_beside_those_of_the_same_row():
    rows = WithColumns([{"a": 0}, {"a": 1}], [{"b": 2}, {"b": 3}])
    assert len(rows) == 2 and [rows[i] for i in range(2)] == [{"a": 0, "b": 2}, {"a": 1, "b": 3}]
    with pytest.raises(ValueError, match="1 rows do not match 2"):
        WithColumns([{}, {}], [{}])


def test_sets_are_shuffled_once_and_lose_nothing():
    sets = [[{"n": i} for i in range(30)], [], [{"n": i} for i in range(30, 50)]]
    rows = ShuffledSets(sets)
    order = [rows[i]["n"] for i in range(len(rows))]
    assert sorted(order) == list(range(50)) != order
    assert order == [ShuffledSets(sets)[i]["n"] for i in range(50)]
