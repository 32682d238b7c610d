"""The folder of a finished filtering: damage to any of its files is named."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import filtered


@pytest.fixture
def finished(tmp_path):
    """The folder of a filtering that kept two files."""
    (tmp_path / "kept").mkdir()
    files = [tmp_path / "kept" / f"00000{i}.jsonl" for i in range(2)]
    for i, path in enumerate(files):
        path.write_text(f'{{"text": "word {i}"}}\n')
    for name in filtered.BESIDE:
        (tmp_path / name).write_text("a line\n")
    report = {"version": 1, "sources": [{"fingerprint": "f"}], "text": "half of a pair \ud83d", "kept": 2}
    filtered.write_report(tmp_path, report, files)
    return tmp_path


def test_a_report_is_read_as_it_was_written(finished):
    report = filtered.read_report(finished)
    assert report["text"] == "half of a pair \ud83d" and report["kept"] == 2
    assert [one["file"] for one in report["files"]] == ["kept/000000.jsonl", "kept/000001.jsonl"]
    assert not list(filtered.damage(finished, report, finished / "memo"))
    assert filtered.read_report(finished / "kept") is None


@pytest.mark.parametrize("name", ["kept/000001.jsonl", "rejected.jsonl"])
def test_damage_to_a_file_is_named(finished, name):
    path, report, memo = finished / name, filtered.read_report(finished), finished / "memo"
    whole = path.read_bytes()
    for body, why in (
        (bytes([whole[0] ^ 1]) + whole[1:], "differs"),
        (whole[:3], "has 3 bytes, "),
        (None, "missing"),
    ):
        path.unlink() if body is None else path.write_bytes(body)
        (line,) = filtered.damage(finished, report, memo)
        assert str(path) in line and why in line


def test_of_large_files_the_sizes_are_compared(finished, monkeypatch):
    report, path = filtered.read_report(finished), finished / "kept" / "000000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"word", b"ward"))
    monkeypatch.setattr(filtered, "_LARGE", 40)
    assert filtered.is_large(report) and not list(filtered.damage(finished, report, finished / "memo"))
    path.write_bytes(b"")
    assert len(list(filtered.damage(finished, report, finished / "memo"))) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "list"])
def test_a_damaged_report_is_named(finished, damage):
    path = finished / "report.json"
    text = path.read_bytes()
    bodies = {
        "flip": text.replace(b'"kept": 2', b'"kept": 3'),
        "truncate": text[:50],
        "empty": b"",
        "list": b"[1]",
    }
    path.write_bytes(bodies[damage])
    with pytest.raises(ConfigError, match=r"report\.json is damaged .*filter again in a new folder"):
        filtered.read_report(finished)
    with pytest.raises(ConfigError, match=r"report\.json is damaged"):
        filtered.files_of(str(finished), "data", finished / "memo")


def test_a_report_of_an_earlier_release_is_read(finished):
    path = finished / "report.json"
    path.write_text('{"files": [{"file": "kept/000000.jsonl", "digest": "x"}], "fingerprint": "y"}')
    report = filtered.read_report(finished)
    (line,) = filtered.damage(finished, report, finished / "memo")
    assert "kept/000000.jsonl differs" in line
