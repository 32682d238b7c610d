"""The list of bad records."""

import json
import tracemalloc

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import bad_records
from jaxtrain.data.bad_records import Skips


def test_the_first_stops_with_a_remedy_and_a_whole_file_with_none_of_skipping():
    with pytest.raises(ConfigError, match=r"^a:3: no text; correct it, .* --on_bad_record=skip$"):
        Skips("raise").bad("a:3", "no text")
    with pytest.raises(ConfigError, match=r"^a: the file is empty$"):
        Skips("raise").bad_file("a", "the file is empty")


def test_all_are_listed_with_their_bytes(tmp_path):
    skips = Skips("skip")
    skips.bad("a:1", "not JSON", b'{"a\xc3\xa9')
    skips.bad("a:2", "invalid UTF-8", b"\xff")
    skips.bad("rows record 3", "half a pair \ud800")
    assert len(skips) == 3 and skips.first == {"where": "a:1", "reason": "not JSON"}
    listed = skips.save(tmp_path)
    assert bad_records.skipped(tmp_path) == 3
    assert [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()] == [
        {"where": "a:1", "reason": "not JSON", "line": '{"aé'},
        {"where": "a:2", "reason": "invalid UTF-8", "line_base64": "/w=="},
        {"where": "rows record 3", "reason": "half a pair \ud800"},
    ]
    skips.bad("a:4", "late")
    assert len(skips.save(tmp_path).read_bytes().splitlines()) == 4


def test_many_take_no_memory(tmp_path):
    skips = Skips("skip")
    tracemalloc.start()
    for i in range(5_000):
        skips.bad(f"a:{i}", "not JSON", b"x" * 1_000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(skips) == 5_000 and most < 4 << 20
    assert skips.save(tmp_path).read_bytes().count(b"\n") == 5_000
