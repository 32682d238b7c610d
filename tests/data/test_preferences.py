"""Batches of comparisons: every column spelled out, rows by number, and what is dropped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.data import preferences
from jaxtrain.data.chat import load_template
from jaxtrain.data.tokenizer import ByteTokenizer
from tests.data.corpus import write
from tests.data.talk import said

KIND = ByteTokenizer()
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


def better(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.fixture
def cfg(tmp_path):
    def make(records, held=None, **changes):
        data = records if isinstance(records, str) else write(tmp_path / "a.jsonl", records)
        held = data if held is None else write(tmp_path / "held.jsonl", held)
        options = {"seq_len": 48, "batch_size": 2, "cache_dir": str(tmp_path / "cache"), "eval_data": held}
        return Dialogs(data=data, **(options | changes))

    return make


def prepare(cfg, *, template="plain", seed=0, process=(0, 1), **options):
    given = {"seed": seed, "tokenizer": KIND, "template": load_template(template, KIND), "process": process}
    return preferences.prepare(cfg, **given, **options)


def said_of(made, side="train"):
    return "; ".join(value for name, value in made.table if name.startswith(side))


def texts(row):
    """(the whole text, what is in the loss) of each alternative that is there."""
    found = []
    for j in range(len(row["length"])):
        n, inside = row["length"][j], row["mask"][j] > 0
        assert (row["segments"][j] == (np.arange(len(inside)) < n)).all()
        assert (row["positions"][j] == np.where(row["segments"][j] > 0, np.arange(len(inside)), 0)).all()
        assert (row["targets"][j, : n - 1] == row["tokens"][j, 1:n]).all() if n else not inside.any()
        if n:
            found.append((said(KIND, row["tokens"][j, :n]), said(KIND, row["targets"][j][inside])))
    return found


def test_a_pair_column_by_column(cfg):
    made = prepare(cfg([better("Hi?", "Yo.", "No, no.", margin=0.5, family="f"), better("Why?", "So.", "x")]))
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


def test_rows_have_their_numbers_in_every_order(cfg):
    records = [better(f"Q{i}", f"a{i}", f"b{i}", n=i) for i in range(11)]
    made = prepare(cfg(records, held=[better(f"R{i}", "a", "b", n=-i) for i in range(5)], batch_size=4))
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


def test_epochs_processes_and_mixes(cfg, tmp_path):
    one = write(tmp_path / "one.jsonl", [better(f"Q{i}", f"a{i}", "b") for i in range(6)])
    two = write(tmp_path / "two.jsonl", [better(f"R{i}", f"a{i}", "b") for i in range(10)])
    base = cfg(f"{one}*0.25,{two}*0.75", held=[better("a", "b", "c")], batch_size=4)
    made = prepare(base)
    index = np.concatenate([made.train.batch(i)["index"] for i in range(6)])
    assert (index < 6).sum() == 6 and sorted(index[index < 6].tolist()) == list(range(6))
    parts = [prepare(base, process=(p, 2)).train.batch(3) for p in range(2)]
    whole = made.train.batch(3)
    assert all((np.concatenate([part[k] for part in parts]) == whole[k]).all() for k in whole)
    assert "25% of the rows" in said_of(made)


def test_both_completions_keep_the_same_end_of_the_prompt(cfg):
    records = [better("p" + "q" * 60, "a" * 20, "b" * 5), better("q", "a" * 44, "b"), better("x", "y", "z")]
    made = prepare(cfg(records, held=[better("a", "b", "c")]))
    # 48 less " " + 20 + EOS leaves 26 for the prompt, BOS and 25 others.
    prompt = "<|bos|>" + "q" * 21 + "\nAI:"
    assert texts(made.rows[0]) == [
        (f"{prompt} {'a' * 20}<|eos|>", f" {'a' * 20}<|eos|>"),
        (f"{prompt} bbbbb<|eos|>", " bbbbb<|eos|>"),
    ]
    assert made.rows[0]["length"][0] == 48
    assert made.train_rows == 3 and texts(made.rows[1])[0][0] == "<|bos|>: " + "a" * 44 + "<|eos|>"
    table = said_of(made)
    assert "prompts lost their beginning" in table and "1 prompts fill the context by themselves" in table
    dropped = prepare(cfg(records, held=[better("a", "b", "c")], too_long="drop"))
    assert dropped.train_rows == 1 and "2 rows dropped: their completions do not fit" in said_of(dropped)


def test_what_is_dropped_is_counted(cfg):
    records = [better("q", f"a{i}", "b") for i in range(5)]
    records += [better("q", "a", "a"), better("q", "a" * 60, "b"), better("q", "", "b"), {"text": "x"}]
    records += [{"prompt": "q", "response_a": "a", "response_b": "b", "preferred": "c"}]
    held = [better("a", "b", "c")]
    with pytest.raises(ConfigError, match=r"a.jsonl record 7: empty completion: chosen holds nothing"):
        prepare(cfg(records, held=held))
    table = said_of(prepare(cfg(records, held=held, on_bad_record="skip")))
    assert "5 rows of 5 of 10 records" in table
    assert "1 records dropped: chosen and rejected are the same" in table
    assert "1 rows dropped: their completions do not fit --seq_len" in table
    assert "3 bad records skipped (2 other fields, 1 empty completion), listed in " in table
    with pytest.raises(ConfigError, match="no comparison left of 1 records: 1 records dropped: chosen and"):
        prepare(cfg([better("q", "a", "a")], held=held))
    bad = [{"prompt": "q", "response_a": "a", "response_b": "b", "preferred": "c"}]
    with pytest.raises(ConfigError, match="record 0: unknown preference: preferred is 'c', not a, b or tie"):
        prepare(cfg(bad, held=held))


def test_ties_and_probabilities(cfg):
    tie = {"prompt": "q", "response_a": "a", "response_b": "b", "preferred": "tie"}
    records = [tie, tie | {"preferred": "b", "p_win": 0.25}, tie | {"p_win": 0.625}]
    held = [better("a", "b", "c")]
    half = prepare(cfg(records, held=held))
    assert [half.rows[i]["prefer"].tolist() for i in range(3)] == [
        [[0, 0.5], [0.5, 0]],
        [[0, 0.75], [0.25, 0]],
        [[0, 0.625], [0.375, 0]],
    ]
    assert "1 pairs are ties" in said_of(half)
    hard = prepare(cfg(records, held=held), soft=False)
    assert [hard.rows[i]["prefer"][0, 1] for i in range(3)] == [0.5, 1, 0.5]
    dropped = prepare(cfg(records, held=held), ties="drop")
    assert dropped.train_rows == 2 and [dropped.fields(i)["preferred"] for i in range(2)] == ["b", "tie"]
    assert "1 rows dropped: nothing but ties" in said_of(dropped)
    assert dropped.fingerprints["data"] != half.fingerprints["data"]


RANKED = [
    {"prompt": "q", "completions": ["d", "a", "b", "c"], "ranking": [3, 1, 2, 2]},
    {"prompt": "r", "completions": ["a", "b", "a"], "ranking": [1, 2, 1]},
]


def test_rankings_are_rows_of_as_many_alternatives_as_the_longest(cfg):
    made = prepare(cfg(RANKED, held=[better("a", "b", "c")]), kind="ranked")
    first, second, pair = (made.rows[i] for i in range(3))
    assert [text for _, text in texts(first)] == [f" {c}<|eos|>" for c in "abcd"]
    assert first["rank"].tolist() == [0, 1, 1, 2] and second["rank"].tolist() == [0, 1, -1, -1]
    assert second["length"].tolist()[2:] == [0, 0] and pair["rank"].tolist() == [0, 1, -1, -1]
    weights = np.array([[0, 1, 1, 1], [0, 0, 0.5, 1], [0, 0.5, 0, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(first["prefer"], weights / 6, rtol=1e-6)
    assert second["prefer"].sum() == pair["prefer"].sum() == 1
    assert "1 repeated completions of a ranking left out" in said_of(made) and "1 pairs are ties" in said_of(
        made
    )
    flat = prepare(cfg(RANKED, held=[better("a", "b", "c")]), kind="ranked", flat=True)
    np.testing.assert_array_equal(flat.rows[0]["prefer"], weights)
    without = prepare(cfg(RANKED, held=[better("a", "b", "c")]), kind="ranked", ties="drop")
    np.testing.assert_allclose(without.rows[0]["prefer"], np.where(weights == 0.5, 0, weights) / 5, rtol=1e-6)
    contradictory = RANKED[1] | {"ranking": [1, 2, 3]}
    with pytest.raises(
        ConfigError, match="contradictory ranking: it has the same completion under two ranks"
    ):
        prepare(cfg([contradictory]), kind="ranked")


def test_a_ranking_is_all_its_pairs(cfg):
    made = prepare(cfg(RANKED[:1], held=[better("a", "b", "c")]))
    found = [(*(text[1] for _, text in texts(made.rows[i])), made.rows[i]["prefer"][0, 1]) for i in range(6)]
    wanted = [("a", "b", 1), ("a", "c", 1), ("a", "d", 1), ("b", "c", 0.5), ("b", "d", 1), ("c", "d", 1)]
    assert found == wanted and made.train_rows == 6
    assert {made.fields(i)["prompt"] for i in range(6)} == {"q"}


def test_unpaired_rows_stand_beside_the_completion_of_another_prompt(cfg):
    records = [better("q", "a", "b"), better("r", "c", "d"), better("q", "e", "f")]
    held = [{"prompt": "h", "completion": "x", "label": True}, {"prompt": "h", "completion": "y", "label": 0}]
    made = prepare(cfg(records, held=held), kind="unpaired")
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
    table = said_of(prepare(cfg([tie, tie | {"preferred": "a"}], held=held), kind="unpaired"))
    assert "1 ties left out: they say nothing of either completion" in table
    with pytest.raises(ConfigError, match=r"known formats: chosen .*responses"):
        prepare(cfg(held))
    with pytest.raises(ConfigError, match=r"known formats: chosen .*judged"):
        prepare(cfg(RANKED), kind="unpaired")


def test_another_row_s_long_completion_leaves_this_row_whole(cfg):
    records = [better("", "a" * 45, "b", n=0), better("q" * 20, "c", "d", n=1)]
    made = prepare(cfg(records, held=[better("a", "b", "c")]), kind="unpaired", template="none")
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
