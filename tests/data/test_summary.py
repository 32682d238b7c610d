"""The table of a run's data: shares, epochs, warnings, and bad records by kind."""

import dataclasses
import json

from jaxtrain.config import Corpus
from jaxtrain.data import pipeline, summary
from jaxtrain.data.source_spec import DataSource
from tests.data.corpus import records_of

CFG = Corpus(batch_size=4)


def opened(*names, weight=1.0):
    return [(DataSource("jsonl", name, weight=weight), records_of([{}], name)) for name in names]


def test_shares_and_epochs_by_hand():
    lines = list(summary.mix(CFG, opened("a"), [10], opened("h")))
    assert lines == [("train a", "an epoch is 2.5 batches of 4")]
    two = [*opened("a", weight=0.25), *opened("b", weight=0.75)]
    assert list(summary.mix(CFG, two, [10, 30], opened("h"))) == [
        ("train a", "25% of the rows, an epoch is 10.0 batches of 4"),
        ("train b", "75% of the rows, an epoch is 10.0 batches of 4"),
    ]


def test_fewer_rows_than_a_batch_are_a_warning():
    lines = list(
        summary.mix(Corpus(batch_size=8), [*opened("a", weight=0.5), *opened("b", weight=0.5)], [1, 4], [])
    )
    assert [text for name, text in lines if name == "warning"] == [
        "a has 1 row, so that a batch has each 4.0 times on average"
    ]


def test_held_out_documents_that_are_trained_on_are_a_warning():
    _, (name, text) = summary.mix(CFG, opened("a"), [10], opened("h", "a"))
    assert name == "warning" and "the held-out loss is meaningless" in text


def test_bad_records_are_counted_by_kind(tmp_path):
    listed = tmp_path / "skipped.jsonl"
    reasons = ["no text: x", "no text: y", "unknown role: z"]
    listed.write_text("".join(json.dumps({"where": "a", "reason": one}) + "\n" for one in reasons))
    records = dataclasses.replace(records_of([{}]), skipped=1200, listed="first.jsonl")
    assert list(summary.skips(records, str(listed))) == [
        "1,200 bad records skipped, listed in first.jsonl",
        f"3 bad records skipped (2 no text, 1 unknown role), listed in {listed}",
    ]
    listed.write_text("")
    assert list(summary.skips(records_of([{}]), str(listed))) == []


def test_what_files_left_out_is_in_the_table(cfg, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": [{"text": "some text", "a": 1}] * 9}))
    made = pipeline.prepare(
        dataclasses.replace(cfg(f"jsonl:{path}"), tokenizer="byte", seq_len=16, batch_size=1), seed=0
    )
    assert [text for _, text in made.table if "beside" in text] == [
        "beside the records under 'data', not read: version (in 1 objects)"
    ] * 2
