"""The phases of a filter run: broken lines, duplicates across data sets."""

import base64
import gzip
import json
import random

from experiments import filter_data
from tests.apps.filters import filtering
from tests.apps.filters.duplicates import edited, zipf_words
from tests.apps.filters.filtering import QUIET
from tests.data.corpus import text
from tests.data.file_formats import archive, parquet


def test_broken_lines_and_encodings_are_kept_to_the_byte(tmp_path):
    bad = [
        b'{"text": "caf\xe9"}',
        b"\x00\xff\xfe binary \x80 junk",
        b'{"text": "cut',
        b"[1, 2]",
        b'"\xc3\xa9"',
    ]
    good = [json.dumps({"text": text(i)}).encode() for i in range(3)]
    odd = [
        rb'{"text": "half \ud800 pair"}',
        b'{"text": ""}',
        b'{"text": " \\n"}',
        b'{"title": "x"}',
        b'{"text": 5}',
    ]
    data = b"\n".join([*good, *bad, *odd]) + b"\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    report, kept, lines = filtering.run(f"jsonl:{tmp_path}/a.jsonl.gz", tmp_path / "out", *QUIET)
    assert report["read"] == 13 and len(kept) == 3
    raw = {
        base64.b64decode(line["record"]["line_base64"]).rstrip(b"\n")
        if "line_base64" in line["record"]
        else line["record"]["line"].encode()
        for line in lines
        if set(line["record"]) <= {"line", "line_base64"}
    }
    assert raw == set(bad)
    assert {line["rule"] for line in lines} == {
        "invalid_utf-8", "not_json", "not_a_json_object_but_list", "not_a_json_object_but_str", "half_surrogate_pair",
        "empty", "no_text",
    }  # fmt: skip
    assert [line["record"] for line in lines if line["rule"] == "half_surrogate_pair"] == [
        {"text": "half \ud800 pair"}
    ]


def test_duplicates_across_data_sets_name_the_kept_copy(tmp_path):
    rng = random.Random(5)
    texts = [" ".join(zipf_words(rng, 60)) for _ in range(30)]
    first = filtering.source(tmp_path, texts)
    second = filtering.source(
        tmp_path,
        [
            texts[3].upper(),
            " ".join(edited(rng, texts[4].split(), 0.1)),
            " ".join(zipf_words(rng, 60)),
            texts[3],
        ],
        "b.jsonl",
    )
    report, kept, lines = filtering.run(
        f"{first},{second}", tmp_path / "out", *filtering.only("exact", "near")
    )
    assert [(line["id"][-9:], line["step"], line["kept"][-9:]) for line in lines] == [
        ("b.jsonl#0", "exact", "a.jsonl#3"),
        ("b.jsonl#1", "near", "a.jsonl#4"),
        ("b.jsonl#3", "exact", "a.jsonl#3"),
    ]
    assert lines[0]["record"] == {"text": texts[3].upper(), "n": 0} and len(kept) == 31
    assert lines[0]["score"] == 1 and 0.8 <= lines[1]["score"] < 1
    assert report["steps"]["near"]["rules"] == {"similar_words": 1}


def test_files_of_every_kind_are_filtered_and_what_they_leave_out_is_said(tmp_path):
    rows = [{"text": text(i), "n": i} for i in range(20)]
    members = {
        "a.json": json.dumps(rows[:10]).encode(),
        "b.parquet": parquet(rows[10:]),
        "LICENSE": b"Do as you like.\n",
    }
    (tmp_path / "what? a=b.zip").write_bytes(archive(members | {"c.csv": b"text,n\nx,1,2\n"}))
    report, kept, lines = filtering.run(f'jsonl:"{tmp_path}/what? a=b.zip"', tmp_path / "out", *QUIET)
    assert [record["n"] for record in kept] == list(range(20)) and report["read"] == 21
    assert [line["record"] for line in lines] == [{"line": "x,1,2\n"}]
    assert lines[0]["id"] == f"{tmp_path}/what? a=b.zip/c.csv:2"
    (note,) = report["sources"][0]["notes"]
    assert "b.zip/LICENSE: plain text" in note
    assert any(note in line for line in filter_data.report_table(report))
