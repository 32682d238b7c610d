"""Malformed records: a few hundred of a fixed seed, and that the attack sees what it looks for."""

import hashlib
import json
from pathlib import Path

from jaxtrain.apps.soak import records
from jaxtrain.apps.soak.records import RecordStage
from jaxtrain.config import ConfigError


def test_a_few_hundred_records_hold_in_every_stage():
    rows = records.attack(144, seed=5, most=24)
    assert [row.fault for row in rows] == [f"malformed records: {name}" for name in records.STAGES]
    assert [(row.held, row.detail) for row in rows if row.held != row.times] == []
    assert sum(row.times for row in rows) >= 144 and sum("prepared" in row.detail for row in rows) > 6


def test_the_same_seed_makes_the_same_records():
    def contents(seed):
        seen = []

        def prepare(data, policy, cache_dir):
            folder = Path(data.partition(":")[2].partition("?")[0]).parent
            seen.append([path.read_bytes() for path in sorted(folder.iterdir())])

        records.attack(40, seed, {"x": RecordStage(prepare, ("judged",), ("skip",))}, most=8)
        return [hashlib.sha256(repr(one).encode()).hexdigest() for one in seen]

    first, second = contents(1), contents(2)
    assert len(first) > 2 and contents(1) == first != second


def stage_that(end, policies=("skip", "raise")):
    return {"x": RecordStage(end, ("text",), policies, named=False)}


def test_what_does_not_hold_is_counted_with_its_records():
    def fails(data, policy, cache_dir):
        raise KeyError("role")

    def without_a_place(data, policy, cache_dir):
        if policy == "raise":
            raise ConfigError("a record is bad; --on_bad_record=skip")

    (row,) = records.attack(30, 0, stage_that(fails))
    assert row.held == 0 < row.times and "fault: KeyError 'role' (test_records.py:" in row.detail
    assert "(seed 0, 30 records)" in row.detail and ".text" not in row.detail
    (row,) = records.attack(30, 0, stage_that(without_a_place))
    assert row.held == 0 and "no file and line in" in row.detail
    (row,) = records.attack(30, 0, stage_that(lambda *args: None))
    assert row.held == row.times and "prepared" in row.detail


def test_a_list_without_places_and_a_bad_record_that_is_accepted_are_seen(tmp_path):
    def lists(where):
        def prepare(data, policy, cache_dir):
            folder = tmp_path.parent / cache_dir
            folder.mkdir(parents=True)
            at = data.partition(":")[2].partition("*")[0]
            (folder / "skipped.jsonl").write_text(
                json.dumps({"where": where.format(at), "reason": "no text"}) + "\n"
            )

        return prepare

    (row,) = records.attack(30, 0, stage_that(lists("somewhere")))
    assert row.held == 0 and "no file and line in somewhere" in row.detail

    def one(data, policy, cache_dir):
        if policy == "skip":
            folder = data.partition(":")[2].rpartition("/")[0]
            lists(f"{folder}/0.jsonl:3")(data, policy, cache_dir)

    (row,) = records.attack(30, 0, stage_that(one))
    assert row.held == 0 and "is accepted where the first stops" in row.detail
