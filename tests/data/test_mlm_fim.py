"""Masked-token prediction and fill-in-the-middle."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain.data import mlm_fim, packing
from jaxtrain.data.tokenizer import ByteTokenizer, special_ids

BYTES = ByteTokenizer()


def row_of(size, documents):
    parts = [np.array([BYTES.bos, *BYTES.encode([text])[0], BYTES.eos]) for text in documents]
    return packing.assemble([(ids, np.ones(len(ids) - 1)) for ids in parts], size, BYTES.pad)


def test_masking_hides_15_percent_in_the_shares_of_bert():
    row = row_of(1000, ["x" * 400, "y" * 500])
    change = mlm_fim.mask_tokens(BYTES, 0.15)
    totals = np.zeros(4)
    ordinary = 0
    for i in range(300):
        new = change(row, np.random.Generator(np.random.Philox(key=i)))
        chosen = new["mask"] == 1
        assert (new["targets"] == row["tokens"]).all()
        assert (new["tokens"][~chosen] == row["tokens"][~chosen]).all()
        assert not np.isin(row["tokens"][chosen], special_ids(BYTES)).any() and not chosen[902:].any()
        hidden = new["tokens"] == BYTES.mask
        drawn = chosen & ~hidden
        assert not np.isin(new["tokens"][drawn], special_ids(BYTES)).any()
        same = drawn & (new["tokens"] == row["tokens"])
        totals += chosen.sum(), hidden.sum(), (drawn & ~same).sum(), same.sum()
        ordinary += 900
    # Standard errors: .0007 of the rate, .002 and .0015 of the shares; a random token is the same one 1 time in 256.
    assert abs(totals[0] / ordinary - 0.15) < 0.003
    assert abs(totals[1] / totals[0] - 0.8) < 0.01
    assert abs(totals[2] / totals[0] - 0.1 * 255 / 256) < 0.007
    assert abs(totals[3] / totals[0] - 0.1) < 0.007


def test_masking_rates_of_nothing_and_all():
    row = row_of(64, ["hello world"])
    none = mlm_fim.mask_tokens(BYTES, 0.0)(row, np.random.Generator(np.random.Philox(1)))
    every = mlm_fim.mask_tokens(BYTES, 1.0)(row, np.random.Generator(np.random.Philox(1)))
    assert (none["tokens"] == row["tokens"]).all() and not none["mask"].any()
    assert every["mask"].sum() == len("hello world")


@given(st.text(max_size=30), st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3))
@settings(deadline=None)
def test_fill_in_the_middle_can_be_undone(text, draws):
    parts = mlm_fim.fim_parts(text, np.asarray(draws), 0.5)
    if draws[0] >= 0.5:
        assert parts == (text,)
    else:
        prefix, suffix, middle = parts
        assert prefix + middle + suffix == text


def test_fill_in_the_middle_cuts_uniformly_between_characters():
    draws = np.random.Generator(np.random.Philox(3)).random((20_000, 3))
    parts = [mlm_fim.fim_parts("abc", d, 0.25) for d in draws]
    moved = [p for p in parts if len(p) == 3]
    assert abs(len(moved) / len(parts) - 0.25) < 0.012
    # Two cuts among 4 places: the 6 splits with distinct cuts come twice as often as the 4 with an empty middle.
    counts = {split: moved.count(split) for split in set(moved)}
    assert len(counts) == 10
    for (_, _, middle), count in counts.items():
        assert abs(count / len(moved) - (1 / 8 if middle else 1 / 16)) < 0.02


def test_join_puts_each_part_behind_its_token():
    ids = [np.array([i], np.int32) for i in (1, 2, 3)]
    assert np.concatenate(mlm_fim.fim_join(ids, (7, 8, 9))).tolist() == [7, 1, 8, 2, 9, 3]
    assert np.concatenate(mlm_fim.fim_join(ids[:1], (7, 8, 9))).tolist() == [1]
