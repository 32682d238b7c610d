"""TFDS data sets with damage: the intact ones are read, each change does something, and no damage is learnt."""

import json

import pytest

from jaxtrain.apps.soak import array_records, records
from jaxtrain.config import Data
from jaxtrain.data import source_spec, sources
from jaxtrain.files.tf_example import encoder

STAGES = {name: stage for name, stage in records.STAGES.items() if stage.data_sets}


def example(row):
    return encoder({key: type(one) for key, one in row.items()})(row.values())


@pytest.mark.parametrize("name", array_records.ROWS)
def test_the_data_sets_that_are_damaged_are_accepted(tmp_path, name):
    row = array_records.ROWS[name]
    (tmp_path / "set").mkdir()
    for file, content in array_records.data_set(row, [example(row)] * 5).items():
        (tmp_path / "set" / file).write_bytes(content)
    data = f"tfds:{tmp_path / 'set'}"
    (source,) = source_spec.parse(data)
    read = sources.whole(source, Data(data=data, cache_dir=str(tmp_path / "cache")), None)
    assert [json.dumps(one, sort_keys=True) for one in read.many(range(5))] == [
        json.dumps(row, sort_keys=True)
    ] * 5
    (stage,) = (stage for stage in STAGES.values() if name in stage.formats)
    stage.prepare(data, "raise", str(tmp_path / "cache"))


def test_each_change_changes_what_it_is_given():
    row = array_records.ROWS["completion"]
    files = array_records.data_set(row, [example(row)] * 5)
    one, shard, info = example(row), files[array_records.SHARD], files["dataset_info.json"].decode()
    both = info + files["features.json"].decode()
    assert all(change(one, at) != one for change in array_records._EXAMPLES for at in range(len(one)))
    assert all(change(shard, at) != shard for change in array_records._FILES for at in range(8))
    assert all(change(both, 5) != both for change in array_records._INFOS)


def test_a_hundred_damaged_data_sets_hold():
    rows = records.attack(120, 3, STAGES, most=6)
    assert [(row.held, row.detail) for row in rows if row.held != row.times] == []
    ends = " ".join(row.detail for row in rows)
    assert sum(row.times for row in rows) >= 120 and "refused" in ends and "prepared" in ends
