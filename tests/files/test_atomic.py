"""Atomic writes: the old content or the new, never a part; and JSON lines."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old é")
    with pytest.raises(RuntimeError, match="no more"), atomic.replacing(path, "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text(encoding="utf-8") == "old é"
        raise RuntimeError("no more")
    assert path.read_text(encoding="utf-8") == "old é"
    with atomic.replacing(path) as file:
        file.write(b"\xff")
    assert path.read_bytes() == b"\xff" and [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_json_lines_are_read_as_they_were_written(tmp_path):
    records = [{"text": "ä\nb\u2028c\x85\x0b", "n": 1}, {"text": "", "deep": [None, {"a": 0.5}]}]
    atomic.write_jsonl(tmp_path / "a.jsonl", iter(records))
    assert atomic.read_jsonl(tmp_path / "a.jsonl") == records
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert text == "".join(map(atomic.json_line, records)) and "ä" in text


def test_an_export_needs_a_store_and_a_new_file(tmp_path):
    store, out = tmp_path / "a.sqlite", tmp_path / "b.jsonl"
    with pytest.raises(ConfigError, match=r"--store=.*a\.sqlite: no such file"):
        atomic.check_export(store, out)
    store.touch()
    atomic.check_export(store, out)
    for wrong in (tmp_path / "b.json", tmp_path / "none" / "b.jsonl"):
        with pytest.raises(
            ConfigError, match=r"--export=.*: write FOLDER/NAME\.jsonl, in a folder that is there"
        ):
            atomic.check_export(store, wrong)
    out.touch()
    with pytest.raises(ConfigError, match=r"b\.jsonl: it is there already"):
        atomic.check_export(store, out)


def test_a_sealed_record_is_read_and_damage_is_an_error(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_sealed(path, {"a": [1, "ü"]})
    assert atomic.read_sealed(path) == {"a": [1, "ü"]}
    whole = path.read_text(encoding="utf-8")
    for text in (whole.replace("1", "2", 1), whole[:-9], "", "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError):
            atomic.read_sealed(path)
