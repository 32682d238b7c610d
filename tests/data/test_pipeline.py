"""Batches: the same for any number of hosts and threads, resumable by number, and true to the documents."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtrain.config import ConfigError, Corpus
from jaxtrain.data import pipeline, source_spec, sources
from jaxtrain.data.tokenizer import ByteTokenizer, special_ids
from tests.data.corpus import Stories, prose, text, write

COLUMNS = {"tokens", "targets", "mask", "segments", "positions", "row", "bytes"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def base(folder):
    """200 documents by bytes in rows of 160, the first and longest of many rows."""
    long = {"text": "A long one. " * 100, "n": -1}
    source = write(folder / "base.jsonl", [long, *({"text": text(i), "n": i} for i in range(199))])
    return Corpus(
        data=source,
        tokenizer="byte",
        seq_len=160,
        batch_size=8,
        eval_share=0.1,
        cache_dir=str(folder / "cache"),
    )


def prepare(base, *, seed=0, local_rows=np.arange, tokenizer=None, **changes):
    return pipeline.prepare(
        dataclasses.replace(base, **changes), seed=seed, tokenizer=tokenizer, local_rows=local_rows
    )


def same(a, b):
    return a.keys() == b.keys() and all((a[k] == b[k]).all() and a[k].dtype == b[k].dtype for k in a)


def rows_of(made):
    """Rows in an epoch of the first source, as the table says."""
    return next(int(value.split(" ")[0]) for _, value in made.table if " rows of " in value)


def documents_of(batches):
    """The texts of whole documents in the batches, from BOS to EOS."""
    kind, found = ByteTokenizer(), []
    for batch in batches:
        for r, row in enumerate(batch["segments"]):
            for number in range(1, row.max() + 1):
                at = row == number
                ids = batch["tokens"][r][at].tolist() + batch["targets"][r][at][-1:].tolist()
                found.append((ids[0] == kind.bos and ids[-1] == kind.eos, kind.decode(ids)))
    return found


def test_a_batch_has_the_columns_of_the_contract(base):
    made = prepare(base)
    for batch in (made.train.batch(0), made.eval.batch(0)):
        assert batch.keys() == COLUMNS
        for name in ("tokens", "targets", "mask", "segments", "positions"):
            assert batch[name].shape == (8, 160)
        kinds = {name: x.dtype.name for name, x in batch.items()}
        assert kinds == {name: "float32" if name in ("mask", "bytes") else "int32" for name in COLUMNS}
        assert batch["row"].tolist() == list(range(8)) and batch["bytes"].shape == (8,)


def test_held_out_batches_hold_every_document_once_and_end_in_empty_rows(base):
    made = prepare(base, batch_size=7)
    batches = list(made.eval)
    assert len(batches) == len(made.eval) > 1 and all(batch["tokens"].shape == (7, 160) for batch in batches)
    _, held = sources.train_and_held_out(source_spec.parse(base.data)[0], base)
    wanted = [record["text"] for _, block in held.blocks() for record in block]
    whole = sorted(body for is_whole, body in documents_of(batches) if is_whole)
    fits = sorted(body for body in wanted if len(body.encode()) + 1 <= 160)
    assert whole == fits and len(fits) > 5
    assert sum(batch["bytes"].sum() for batch in batches) == sum(len(body.encode()) for body in wanted)
    assert sum(batch["mask"].sum() for batch in batches) == sum(len(body.encode()) + 1 for body in wanted)
    empty = batches[-1]["segments"].max(1) == 0
    assert not batches[-1]["mask"][empty].any() and not batches[-1]["bytes"][empty].any()
    with pytest.raises(IndexError):
        made.eval.batch(len(made.eval))


def test_an_epoch_holds_every_target_once_and_the_next_comes_in_another_order(base):
    made = prepare(base, batch_size=1)
    rows = rows_of(made)
    assert f"an epoch is {rows:.1f} batches of 1" in [value for _, value in made.table]
    first = [made.train.batch(i) for i in range(rows)]
    second = [made.train.batch(i) for i in range(rows, 2 * rows)]
    train, _ = sources.train_and_held_out(source_spec.parse(base.data)[0], base)
    wanted = [record["text"] for _, block in train.blocks() for record in block]
    for epoch in (first, second):
        assert sum(b["mask"].sum() for b in epoch) == sum(len(body.encode()) + 1 for body in wanted)
        whole = sorted(body for is_whole, body in documents_of(epoch) if is_whole)
        assert whole == sorted(body for body in wanted if len(body.encode()) + 1 <= 160)
    keys = [[b["tokens"].tobytes() for b in epoch] for epoch in (first, second)]
    assert sorted(keys[0]) == sorted(keys[1]) and keys[0] != keys[1]
    assert np.mean([a == b for a, b in zip(*keys, strict=True)]) < 0.1


@pytest.mark.parametrize("objective", ["next_token", "masked"])
@pytest.mark.parametrize("hosts", [([0, 1, 2, 3], [4, 5, 6, 7]), ([1, 3], [4], [0, 1, 2, 5, 6, 7])])
def test_hosts_supply_rows_of_the_same_global_batches(base, hosts, objective):
    """Blocks; and what a torus gives: rows of any numbers, some of them on two hosts."""
    whole = prepare(base, objective=objective)
    parts = [prepare(base, local_rows=lambda rows, of=of: np.array(of), objective=objective) for of in hosts]
    for stream in ("train", "eval"):
        for i in range(3):
            wanted = getattr(whole, stream).batch(i)
            for of, part in zip(hosts, parts, strict=True):
                assert same(getattr(part, stream).batch(i), {name: x[of] for name, x in wanted.items()})
    assert parts[1].fingerprints == whole.fingerprints


@given(start=st.integers(0, 60), count=st.integers(1, 5))
@settings(deadline=None, max_examples=15)
def test_resuming_at_a_batch_equals_going_on(base, start, count):
    made = test_resuming_at_a_batch_equals_going_on.__dict__.setdefault(
        "made", prepare(base, objective="masked")
    )
    stream = made.train.iterate(start)
    for i in range(start, start + count):
        assert same(next(stream), made.train.batch(i))


def test_another_preparation_and_what_others_fetched_change_nothing(base):
    one, two = prepare(base, objective="masked"), prepare(base, objective="masked")
    ahead = one.train.iterate()
    for _ in range(20):
        next(ahead)
    assert all(same(a, two.train.batch(i)) for i, a in zip(range(5), one.train.iterate(), strict=False))


def test_the_seed_changes_the_order_and_not_the_held_out_rows(base):
    one, two = prepare(base), prepare(base, seed=1)
    assert not same(one.train.batch(0), two.train.batch(0))
    assert same(one.eval.batch(0), two.eval.batch(0))
    assert one.fingerprints == two.fingerprints


def test_masks_differ_between_epochs_but_not_between_evaluations(base):
    made = prepare(base, objective="masked", batch_size=1)
    rows = rows_of(made)
    seen = {}
    for i in range(2 * rows):
        batch = made.train.batch(i)
        seen.setdefault(np.where(batch["segments"] > 0, batch["targets"], -1).tobytes(), []).append(
            batch["mask"]
        )
    pairs = [masks for masks in seen.values() if len(masks) == 2]
    assert len(pairs) > 50
    assert np.mean([(a != b).any() for a, b in pairs]) > 0.95
    assert same(made.eval.batch(0), made.eval.batch(0)) and made.eval.batch(0)["mask"].any()


def test_masked_batches_predict_hidden_tokens_in_place(base):
    made = prepare(base, objective="masked", mask_rate=0.3)
    batch = made.train.batch(1)
    hit = batch["mask"] > 0
    kind = made.tokenizer
    assert 0.2 < hit[batch["segments"] > 0].mean() < 0.4
    assert (batch["tokens"][~hit] == batch["targets"][~hit]).all()
    assert not np.isin(batch["targets"][hit], special_ids(kind)).any()
    assert batch["bytes"].tolist() == hit.sum(1).tolist()


def test_fill_in_the_middle_moves_middles_and_loses_nothing(base):
    made = prepare(base, objective="fim", fim_rate=1.0, seq_len=1500)
    kind = made.tokenizer
    prefix, suffix, middle = kind.fim
    restored = []
    for batch in made.eval:
        for r, row in enumerate(batch["segments"]):
            for number in range(1, row.max() + 1):
                ids = batch["tokens"][r][row == number].tolist()
                assert ids[0] == kind.bos and ids[1] == prefix
                s, m = ids.index(suffix), ids.index(middle)
                restored.append(kind.decode(ids[2:s] + ids[m + 1 :] + ids[s + 1 : m]))
    _, held = sources.train_and_held_out(source_spec.parse(base.data)[0], base)
    assert sorted(restored) == sorted(record["text"] for _, block in held.blocks() for record in block)
    half = prepare(base, objective="fim", fim_rate=0.5)
    assert half.fingerprints["data"] != made.fingerprints["data"] != prepare(base).fingerprints["data"]


def test_sources_mix_by_weight(base, folder):
    a = write(folder / "a.jsonl", [{"text": f"aaaa {i} " * 6} for i in range(300)])
    b = write(folder / "b.jsonl", [{"text": f"bbbb {i} " * 6} for i in range(40)])
    made = prepare(base, data=f"{a}*0.7,{b}*0.3")
    rows = [bytes(r[1:5].astype(np.uint8)) for i in range(50) for r in made.train.batch(i)["tokens"]]
    share = rows.count(b"aaaa") / len(rows)
    assert abs(share - 0.7) < 0.01 and rows.count(b"aaaa") + rows.count(b"bbbb") == 400
    even = prepare(base, data=f"{a},{b}")
    rows = [bytes(r[1:5].astype(np.uint8)) for i in range(50) for r in even.train.batch(i)["tokens"]]
    assert abs(rows.count(b"aaaa") / len(rows) - 0.5) < 0.01
    assert {"70% of the rows", "30% of the rows"} <= {v.split(",")[0] for _, v in made.table}
    held = b"".join(batch["tokens"].astype(np.uint8).tobytes() for batch in made.eval)
    assert b"aaaa" in held and b"bbbb" in held


def test_bytes_of_a_bpe_add_up(base):
    made = prepare(base, tokenizer=None, seq_len=32)
    bpe = pipeline.prepare(dataclasses.replace(base, tokenizer="bpe:400", seq_len=32), seed=0)
    assert sum(b["bytes"].sum() for b in bpe.eval) == sum(b["bytes"].sum() for b in made.eval)
    assert sum(b["mask"].sum() for b in bpe.eval) < 0.8 * sum(b["mask"].sum() for b in made.eval)
    again = pipeline.prepare(dataclasses.replace(base, tokenizer="bpe:400", seq_len=32), seed=0)
    assert again.tokenizer.fingerprint == bpe.tokenizer.fingerprint
    assert "400 tokens: bpe:400, trained on" in dict(bpe.table)["tokenizer"]


def test_a_tokenizer_that_adds_a_space_still_counts_the_bytes_of_the_text(base, folder):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    inner = tokenizers.Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    inner.save(str(folder / "tokenizer.json"))
    made = prepare(base, tokenizer=None)
    spaced = pipeline.prepare(dataclasses.replace(base, tokenizer=str(folder / "tokenizer.json")), seed=0)
    assert sum(b["bytes"].sum() for b in spaced.eval) == sum(b["bytes"].sum() for b in made.eval)
    assert any("bytes that the tokenizer adds or removes" in value for _, value in spaced.table)
    assert ("tokenizer", "no eos token: added <|eos|> as 256") in spaced.table


def test_a_tokenizer_that_is_given_is_used(base):
    kind = ByteTokenizer()
    made = prepare(base, tokenizer=kind)
    assert made.tokenizer is kind
    assert ("tokenizer", "263 tokens: that of the run or model it starts from") in made.table
    kind = ByteTokenizer()
    kind.mask = None
    with pytest.raises(ConfigError, match="--objective=masked: the tokenizer has no token for it"):
        prepare(base, tokenizer=kind, objective="masked")


def test_exact_log_probabilities_of_rows(base):
    data = dataclasses.replace(
        base, data="tinytown:pretrain?documents=60&held_out=80", tokenizer="byte", seq_len=128
    )
    made = pipeline.prepare(data, seed=0)
    assert made.train.batch(0).keys() == COLUMNS
    _, held = sources.train_and_held_out(source_spec.parse(data.data)[0], data)
    known = {record["text"]: record["logp"] for _, block in held.blocks() for record in block}
    counted = 0
    for batch in made.eval:
        assert batch.keys() == COLUMNS | {"logp", "has_logp"} and batch["logp"].dtype == np.float32
        for r in range(8):
            one = {name: x[r : r + 1] for name, x in batch.items()}
            inside = documents_of([one])
            if inside and all(whole for whole, _ in inside):
                assert batch["has_logp"][r] == 1
                assert math.isclose(
                    batch["logp"][r], sum(known[body] for _, body in inside), rel_tol=1e-5, abs_tol=1e-6
                )
                counted += len(inside)
            else:
                assert batch["has_logp"][r] == 0 and batch["logp"][r] == 0
    assert 20 < counted < 80
    masked = pipeline.prepare(dataclasses.replace(data, objective="masked"), seed=0)
    assert masked.eval.batch(0).keys() == COLUMNS


def test_empty_and_bad_documents_are_dropped_counted_and_listed_each_time(base, folder):
    lines = [{"text": text(i)} for i in range(20)] + [{"text": ""}, {"text": " \n"}, {"body": 1}]
    source = write(folder / "holes.jsonl", lines)
    for _ in range(2):
        made = prepare(base, data=source, on_bad_record="skip", eval_data=prose(folder / "e.jsonl", 3))
        values = [value for name, value in made.table if name.startswith("train")]
        assert any(value.startswith("20 documents") for value in values)
        assert "2 empty documents dropped" in values
        assert any(value.startswith("1 bad records skipped, listed in ") for value in values)
    with pytest.raises(ConfigError, match=r"no document left \(3 empty, 0 skipped\)"):
        nothing = write(folder / "nothing.jsonl", [{"text": " "}] * 3)
        prepare(base, data=nothing, eval_data=prose(folder / "e.jsonl", 3))


def test_invalid_utf8_in_a_tfds_set(base, folder, capsys):
    Stories(data_dir=str(folder / "tf"), broken=True, file_format="array_record").download_and_prepare()
    data = f"tfds:{folder}/tf/stories/1.0.0"
    with pytest.raises(ConfigError, match=r"stories/1\.0\.0:train record \d+: field 'text' is invalid UTF-8"):
        prepare(base, data=data)
    made = prepare(base, data=data, on_bad_record="skip")
    assert any(value.startswith("1 bad records skipped") for _, value in made.table)
    assert any(value.startswith("19 documents") for _, value in made.table)


def test_the_table_counts_documents_longer_than_a_row(base):
    made = prepare(base, eval_data=base.data)
    values = [value for name, value in made.table if name.startswith("train")]
    assert values[0].startswith("200 documents")
    longer = sum(len(text(i).encode()) + 1 > 160 for i in range(199)) + 1
    assert f"{longer} documents cut into rows" in values[1]
    assert (
        "warning",
        "the held-out documents are training documents: the held-out loss is meaningless",
    ) in made.table


def test_a_change_of_data_tokenizer_or_field_is_never_answered_from_the_cache(base, folder):
    both = [{"text": text(i), "other": text(i + 500)} for i in range(30)]
    source = write(folder / "both.jsonl", both)
    first = prepare(base, data=source)
    assert prepare(base, data=source, text_field="other").fingerprints["data"] != first.fingerprints["data"]
    assert prepare(base, data=source, seq_len=32).fingerprints == first.fingerprints
    write(folder / "both.jsonl", both[:-1])
    assert prepare(base, data=source).fingerprints["data"] != first.fingerprints["data"]
