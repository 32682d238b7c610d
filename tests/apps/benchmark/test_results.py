import json

import pytest

from jaxtrain.apps.benchmark.results import ResultsFile, read
from jaxtrain.config import ConfigError


def test_the_file_is_whole_after_every_record(tmp_path):
    path = tmp_path / "r.json"
    file = ResultsFile(path, {"command": "first"})
    file.start("decode")
    assert read(path)["parts"]["decode"]["status"] == "running"
    file.add("decode", "batch 1", {"tokens_per_s": 3.0})
    assert json.loads(path.read_text())["parts"]["decode"]["results"] == {"batch 1": {"tokens_per_s": 3.0}}
    file.end("decode", status="complete", note="", seconds=2.0)
    assert read(path)["parts"]["decode"]["seconds"] == 2.0


def test_a_later_run_replaces_its_parts_alone(tmp_path):
    path = tmp_path / "r.json"
    for command, parts in (("first", "ab"), ("second", "b"), ("third", "c")):
        file = ResultsFile(path, {"command": command})
        for part in parts:
            file.start(part)
            file.add(part, "x", command)
            file.end(part, status="complete")
    found = read(path)
    assert [run["command"] for run in found["runs"]] == ["first", "second", "third"]
    of = {name: found["runs"][part["run"]]["command"] for name, part in found["parts"].items()}
    assert of == {"a": "first", "b": "second", "c": "third"}
    file = ResultsFile(path, {"command": "fourth"})
    for part in "ab":
        file.start(part)
        file.end(part, status="complete")
    assert [run["command"] for run in read(path)["runs"]] == [
        "third",
        "fourth",
    ]  # the others have no part left


def test_a_part_left_out_keeps_what_an_earlier_run_measured(tmp_path):
    path = tmp_path / "r.json"
    file = ResultsFile(path, {"command": "first"})
    file.start("a")
    file.add("a", "x", 1)
    file.end("a", status="complete")
    file = ResultsFile(path, {"command": "second"})
    for part in "ab":
        file.leave_out(part, "3 s were left")
    parts = read(path)["parts"]
    assert parts["a"]["status"] == "complete" and parts["b"] == {
        "run": 1,
        "status": "left out",
        "note": "3 s were left",
        "results": {},
    }


@pytest.mark.parametrize("text", ["", "[1]", '{"format": 9}', '{"a": 1}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"--out=.*r\.json"):
        ResultsFile(path, {})
    assert path.read_text() == text
