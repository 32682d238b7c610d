"""Batches of comparisons: every column spelled out, rows by number, and what is dropped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain.config import ConfigError
from jaxtrain.data import preferences
from tests.data.comparisons import KIND, better, prepare, said_of, texts
from tests.data.corpus import write

COLUMNS = {
    "tokens",
    "targets",
    "mask",
    "segments",
    "positions",
    "length",
    "row",
    "index",
    "prefer",
    "margin",
    "rank",
}


def test_a_pair_column_by_column(comparisons):
    made = prepare(
        comparisons([better("Hi?", "Yo.", "No, no.", margin=0.5, family="f"), better("Why?", "So.", "x")])
    )
    batch = made.eval.batch(0)
    assert batch.keys() == COLUMNS and len(made.eval) == 1
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items() if v.ndim > 1} == {
        **{k: ((2, 2, 48), "int32") for k in ("tokens", "targets", "segments", "positions")},
        "mask": ((2, 2, 48), "float32"),
        "length": ((2, 2), "int32"),
        "prefer": ((2, 2, 2), "float32"),
        "rank": ((2, 2), "int32"),
    }
    row = made.rows[0]
    prompt = "<|bos|>Human: Hi?\nAI:"
    assert texts(row) == [
        (f"{prompt} Yo.<|eos|>", " Yo.<|eos|>"),
        (f"{prompt} No, no.<|eos|>", " No, no.<|eos|>"),
    ]
    at = 1 + len("Human: Hi?\nAI:")
    assert row["length"].tolist() == [at + 5, at + 9]
    assert np.flatnonzero(row["mask"][0]).tolist() == list(range(at - 1, at + 4))
    assert row["tokens"][0, at + 4] == KIND.eos and (row["tokens"][0, at + 5 :] == KIND.pad).all()
    assert row["prefer"].tolist() == [[0, 1], [0, 0]] and row["rank"].tolist() == [0, 1]
    assert row["margin"] == np.float32(0.5) and row["index"] == 0
    assert made.fields(0)["family"] == "f" and made.fields(3)["prompt"] == "Why?"
    assert (len(made.rows), made.train_rows) == (4, 2)


def test_rows_have_their_numbers_in_every_order(comparisons):
    records = [better(f"Q{i}", f"a{i}", f"b{i}", n=i) for i in range(11)]
    made = prepare(
        comparisons(records, held=[better(f"R{i}", "a", "b", n=-i) for i in range(5)], batch_size=4)
    )
    assert [made.fields(i)["n"] for i in range(len(made.rows))] == [*range(11), 0, -1, -2, -3, -4]
    for i in range(4):
        batch = made.train.batch(i)
        for r, number in enumerate(batch["index"]):
            assert all(np.array_equal(batch[k][r], v) for k, v in made.rows[number].items())
            assert texts(made.rows[number])[0][0] == f"<|bos|>Human: Q{number}\nAI: a{number}<|eos|>"
    held = [made.eval.batch(i) for i in range(len(made.eval))]
    index = np.concatenate([batch["index"] for batch in held])
    assert sorted(index[:5].tolist()) == list(range(11, 16)) and index[5:].tolist() == [-1] * 3
    last = held[-1]
    for name in ("length", "mask", "prefer", "segments", "margin"):
        assert not last[name][1:].any()
    assert (last["rank"][1:] == -1).all() and (last["tokens"][1:] == KIND.pad).all()
    with pytest.raises(IndexError, match="row 16 of 16"):
        made.rows[16]


def test_a_margin_of_the_flag_is_for_training_rows_that_have_none(comparisons):
    records = [better("P", "a", "b", margin=0), better("Q", "a", "b", margin=2), better("R", "a", "b")]
    made = prepare(
        comparisons(records, held=[better("S", "a", "b"), better("T", "a", "b", margin=1)]), margin=0.5
    )
    assert [float(made.rows[i]["margin"]) for i in range(5)] == [0, 2, 0.5, 0, 1]
    assert made.rows[0]["margin"].dtype == np.float32


def test_epochs_processes_and_mixes(comparisons, tmp_path):
    one = write(tmp_path / "one.jsonl", [better(f"Q{i}", f"a{i}", "b") for i in range(6)])
    two = write(tmp_path / "two.jsonl", [better(f"R{i}", f"a{i}", "b") for i in range(10)])
    base = comparisons(f"{one}*0.25,{two}*0.75", held=[better("a", "b", "c")], batch_size=4)
    made = prepare(base)
    index = np.concatenate([made.train.batch(i)["index"] for i in range(6)])
    assert (index < 6).sum() == 6 and sorted(index[index < 6].tolist()) == list(range(6))
    part, whole = prepare(base, local_rows=lambda rows: np.array([0, 3])).train.batch(3), made.train.batch(3)
    assert all((part[k] == whole[k][[0, 3]]).all() for k in whole)
    assert "25% of the rows" in said_of(made)


def test_ties_and_probabilities(comparisons):
    tie = {"prompt": "q", "response_a": "a", "response_b": "b", "preferred": "tie"}
    records = [tie, tie | {"preferred": "b", "p_win": 0.25}, tie | {"p_win": 0.625}]
    held = [better("a", "b", "c")]
    half = prepare(comparisons(records, held=held))
    assert [half.rows[i]["prefer"].tolist() for i in range(3)] == [
        [[0, 0.5], [0.5, 0]],
        [[0, 0.75], [0.25, 0]],
        [[0, 0.625], [0.375, 0]],
    ]
    assert "1 pairs are tied" in said_of(half)
    hard = prepare(comparisons(records, held=held), soft=False)
    assert [hard.rows[i]["prefer"][0, 1] for i in range(3)] == [0.5, 1, 0.5]
    dropped = prepare(comparisons(records, held=held), ties="drop")
    assert dropped.train_rows == 2 and [dropped.fields(i)["preferred"] for i in range(2)] == ["b", "tie"]
    assert "1 rows dropped: nothing but ties" in said_of(dropped)
    assert dropped.fingerprints["data"] != half.fingerprints["data"]


RANKED = [
    {"prompt": "q", "completions": ["d", "a", "b", "c"], "ranking": [3, 1, 2, 2]},
    {"prompt": "r", "completions": ["a", "b", "a"], "ranking": [1, 2, 1]},
]


def test_rankings_are_rows_of_as_many_alternatives_as_the_longest(comparisons):
    made = prepare(comparisons(RANKED, held=[better("a", "b", "c")]), kind="ranked")
    first, second, pair = (made.rows[i] for i in range(3))
    assert [text for _, text in texts(first)] == [f" {c}<|eos|>" for c in "abcd"]
    assert first["rank"].tolist() == [0, 1, 1, 2] and second["rank"].tolist() == [0, 1, -1, -1]
    assert second["length"].tolist()[2:] == [0, 0] and pair["rank"].tolist() == [0, 1, -1, -1]
    weights = np.array([[0, 1, 1, 1], [0, 0, 0.5, 1], [0, 0.5, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(first["prefer"], weights / 6, rtol=1e-6)
    assert second["prefer"].sum() == pair["prefer"].sum() == 1
    assert "1 repeated completions of a ranking left out" in said_of(made) and "1 pairs are tied" in said_of(
        made
    )
    flat = prepare(comparisons(RANKED, held=[better("a", "b", "c")]), kind="ranked", flat=True)
    np.testing.assert_array_equal(flat.rows[0]["prefer"], weights)
    without = prepare(comparisons(RANKED, held=[better("a", "b", "c")]), kind="ranked", ties="drop")
    np.testing.assert_allclose(without.rows[0]["prefer"], np.where(weights == 0.5, 0, weights) / 5, rtol=1e-6)
    contradictory = RANKED[1] | {"ranking": [1, 2, 3]}
    with pytest.raises(
        ConfigError, match="contradictory ranking: it has the same completion under two ranks"
    ):
        prepare(comparisons([contradictory]), kind="ranked")


def test_unpaired_rows_stand_beside_the_completion_of_another_prompt(comparisons):
    records = [better("q", "a", "b"), better("r", "c", "d"), better("q", "e", "f")]
    held = [{"prompt": "h", "completion": "x", "label": True}, {"prompt": "h", "completion": "y", "label": 0}]
    made = prepare(comparisons(records, held=held), kind="unpaired")
    assert made.train.batch(0).keys() == COLUMNS | {"label"}
    found = [(texts(made.rows[i]), float(made.rows[i]["label"])) for i in range(6)]
    assert [(rows[0][0][15:16], rows[0][1][1], rows[1][1][1], label) for rows, label in found] == [
        ("\n", "a", "c", 1),
        ("\n", "b", "c", 0),
        ("\n", "c", "e", 1),
        ("\n", "d", "e", 0),
        ("\n", "e", "c", 1),
        ("\n", "f", "c", 0),
    ]
    for rows, _ in found:
        assert rows[0][0].split("\n")[0] == rows[1][0].split("\n")[0]  # one prompt under both
    assert [float(made.rows[i]["label"]) for i in (6, 7)] == [1, 0]
    tie = {"prompt": "q", "response_a": "a", "response_b": "b", "preferred": "tie"}
    table = said_of(prepare(comparisons([tie, tie | {"preferred": "a"}], held=held), kind="unpaired"))
    assert "1 ties left out: they say nothing of either completion" in table
    with pytest.raises(ConfigError, match=r"known formats: chosen .*responses"):
        prepare(comparisons(held))
    with pytest.raises(ConfigError, match=r"known formats: chosen .*judged"):
        prepare(comparisons(RANKED), kind="unpaired")


def test_another_row_s_long_completion_leaves_this_row_whole(comparisons):
    records = [better("", "a" * 45, "b", n=0), better("q" * 20, "c", "d", n=1)]
    made = prepare(comparisons(records, held=[better("a", "b", "c")]), kind="unpaired", template="none")
    own, other = texts(made.rows[2])
    assert own[0] == "<|bos|>" + "q" * 20 + "c<|eos|>" and other[0] == "<|bos|>q" + "a" * 45 + "<|eos|>"


@settings(max_examples=50, deadline=None)
@given(
    rank=st.lists(st.integers(-1, 3), min_size=2, max_size=5),
    ties=st.sampled_from(["half", "drop"]),
    flat=st.booleans(),
)
def test_weights_of_a_row_count_each_comparison_once(rank, ties, flat):
    rank = np.asarray(rank)
    found = preferences.prefer(rank, np.nan, ties, flat)
    pairs = [(i, j) for i in range(len(rank)) for j in range(i) if min(rank[i], rank[j]) >= 0]
    decided = [(i, j) for i, j in pairs if rank[i] != rank[j]]
    count = len(pairs) if ties == "half" else len(decided)
    np.testing.assert_allclose(found.sum(), count if flat else min(count, 1), rtol=1e-5)
    assert all((found[i, j] > found[j, i]) == (rank[i] < rank[j]) for i, j in decided)
    assert not found.diagonal().any() and not found[rank < 0].any() and not found[:, rank < 0].any()


def test_alternatives_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="alternative 0 has 5 ids, more than 4"):
        preferences.alternatives([(np.arange(3), np.arange(2))], 2, 4, 0)
