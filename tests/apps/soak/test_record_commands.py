"""Other readers of records, as the attack runs them."""

import json

import pytest

from jaxtrain.apps.soak import malformed, record_commands
from jaxtrain.config import ConfigError


def written(folder, rows):
    path = folder / "0.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return f"jsonl:{path}"


def test_accepted_records_are_read(tmp_path):
    filtered = written(tmp_path, malformed.RECORDS["text"] + malformed.RECORDS["messages"])
    record_commands.filter_data(filtered, "raise", str(tmp_path / "a"))
    assert (tmp_path / "a/out/report.json").is_file()
    record_commands.train_classifier(
        written(tmp_path, malformed.RECORDS["labelled"] * 3), "raise", str(tmp_path / "b")
    )
    assert (tmp_path / "b/classifier.npz").is_file()
    record_commands.people(written(tmp_path, malformed.RECORDS["vote"]), "raise", str(tmp_path / "c"))
    assert (tmp_path / "c/people/skipped.jsonl").read_text() == ""


@pytest.mark.parametrize("name", ["filter_data", "train_classifier", "people"])
def test_a_bad_record_stops_them_with_its_place_or_is_skipped(tmp_path, name):
    read = getattr(record_commands, name)
    record = {"filter_data": "text", "train_classifier": "labelled", "people": "vote"}[name]
    rows = [*malformed.RECORDS[record], "no record", *malformed.RECORDS[record]]
    with pytest.raises(ConfigError, match=rf"0\.jsonl:{len(rows) // 2 + 1}: .*--on_bad_record=skip"):
        read(written(tmp_path, rows), "raise", str(tmp_path / "a"))
    read(written(tmp_path, rows), "skip", str(tmp_path / "b"))
    lists = [path.read_text() for path in (tmp_path / "b").rglob("skipped.jsonl")]
    assert "".join(lists).count("0.jsonl:") == 1
