"""Files of every kind as records: the same ones, with their places; and files that are broken or of another kind."""

import importlib.util
import json
import os
import zipfile

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import file_records, source_spec, sources
from jaxtrain.data.file_records import ReadNotes, parse
from tests.data import file_formats
from tests.data.corpus import numbers, opened, text
from tests.data.file_formats import FORMATS, TABLES, archive, lines

ROWS = [{"text": text(i), "n": i, "deep": {"a": [i, i + 1], "b": None, "c": "é"}} for i in range(40)]
TEXTS = [{"text": f'{text(i)}\n"quoted", {i};\t|', "id": f"{i:03}"} for i in range(40)]


def read(tmp_path, content, name="file"):
    """(places, records, notes) of a file."""
    (tmp_path / name).write_bytes(content)
    notes = ReadNotes()
    found = list(file_records.records(tmp_path / name, notes))
    assert not [one.wrong for one in found if one.wrong]
    return [one.place for one in found], [json.loads(one.text) for one in found], notes.lines()


def without_nulls(row):
    """A row as Arrow gives it: nulls inside a structure are fields that are not there."""
    return {**row, "deep": {k: v for k, v in row["deep"].items() if v is not None}}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_records_come_from_files_of_every_kind_under_any_name(tmp_path, kind):
    arrow = "Arrow" in kind or "Parquet" in kind
    rows = ROWS if not arrow and kind != "zip of several" else list(map(without_nulls, ROWS))
    for name in ("file", "file.jsonl", "file.json", "file.csv"):
        places, found, _ = read(tmp_path, FORMATS[kind](rows), name)
        assert found == rows and len(set(places)) == 40


@pytest.mark.parametrize("kind", TABLES)
def test_the_cells_of_a_table_are_the_texts_that_they_are(tmp_path, kind):
    for name in ("file", "file.csv", "file.tsv"):
        assert read(tmp_path, TABLES[kind](TEXTS), name)[1] == TEXTS


@pytest.mark.parametrize("kind", [*FORMATS, *TABLES])
def test_held_out_records_slices_and_access_by_number_are_those_of_json_lines(cfg, tmp_path, kind):
    rows = TEXTS if kind in TABLES else [{"text": text(i), "id": f"{i:03}"} for i in range(40)]
    (tmp_path / "file").write_bytes((FORMATS | TABLES)[kind](rows))
    (tmp_path / "plain.jsonl").write_bytes(lines(rows))
    data = cfg(f"jsonl:{tmp_path}/file", eval_share=0.2)
    sides, plain = opened(data), opened(cfg(f"jsonl:{tmp_path}/plain.jsonl", eval_share=0.2))
    for side, same in zip(sides, plain, strict=True):
        assert [r for _, b in side.blocks() for r in b] == [r for _, b in same.blocks() for r in b]
        assert side[3] == same[3] and side.source_number(3) == same.source_number(3)
    part = sources.whole(source_spec.parse(f"jsonl:{tmp_path}/file:train[25%:75%]")[0], data)
    assert [r for _, b in part.blocks() for r in b] == rows[10:30]
    assert opened(data)[0].fingerprint == sides[0].fingerprint != part.fingerprint
    (tmp_path / "file").write_bytes((FORMATS | TABLES)[kind]([*rows[:-1], {"text": "new", "id": "x"}]))
    assert opened(data)[0].fingerprint != sides[0].fingerprint


@pytest.mark.parametrize(
    ("content", "places"),
    [
        (b'{"a": 1}\n\n{"a": 2}\n', [":1", ":3"]),
        (b'[\n{"a": 1},\n\n{"a":\n2},\n{"a": 3}]', [":2", ":4", ":6"]),
        (b'[{"a": 1}, {"a": 2}]', [":1 record 0", ":1 record 1"]),
        (b'a,b\n1,"2\n3"\n\n4,5\n', [":2", ":5"]),
        (file_formats.parquet([{"a": 1}, {"a": 2}]), [" row 1", " row 2"]),
        (archive({"x/y.jsonl": b'\n{"a": 1}\n', "z": b"a,b\n1,2\n"}), ["/x/y.jsonl:2", "/z:2"]),
        (b'{"object": "list", "data": [{"a": 1}, {"a": 2}]}\n' * 2,
         [":1 data[0]", ":1 data[1]", ":2 data[0]", ":2 data[1]"]),
    ],
)  # fmt: skip
def test_a_place_is_the_line_the_row_or_the_member(tmp_path, content, places):
    assert read(tmp_path, content)[0] == places


def test_messages_name_the_file_and_the_line(cfg, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "b.json").write_bytes(b'[\n{"text": "c"},\n{"text": "d"}\n]')
    one, _ = opened(cfg(f"jsonl:{tmp_path}/a.jsonl", eval_data="tinytown:pretrain"))
    assert one.where(1) == f"{tmp_path}/a.jsonl:2"
    both, _ = opened(cfg(f"jsonl:{tmp_path}/[ab].*", eval_data="tinytown:pretrain"))
    assert both.where(3) == f"{tmp_path}/b.json:3"
    part, _ = opened(cfg(f"jsonl:{tmp_path}/[ab].*:train[75%:]", eval_data="tinytown:pretrain"))
    assert part[0] == {"text": "d"} and part.where(0) == f"{tmp_path}/b.json:3"


def test_what_stands_beside_the_records_is_noted(tmp_path):
    rows = [{"a": 1}, {"a": 2}]
    _, found, notes = read(tmp_path, json.dumps({"version": 1, "data": rows, "licence": "x"}).encode())
    assert found == rows and notes == (
        "beside the records under 'data', not read: version, licence (in 1 objects)",
    )
    page = {"object": "list", "data": rows, "first_id": "a", "has_more": True}
    assert read(tmp_path, lines([page, page]))[2] == (
        "beside the records under 'data', not read: has_more (in 2 objects)",
    )
    _, found, notes = read(tmp_path, archive({"a.jsonl": lines(rows), "LICENSE": b"Do as you like.\n"}))
    assert found == rows and len(notes) == 1 and "file/LICENSE: plain text" in notes[0]
    images = [{"a": "x", "image": {"bytes": b"\xff\xd8\xff", "path": "p"}}] * 3
    _, found, notes = read(tmp_path, file_formats.parquet(images))
    assert found == [{"a": "x", "image": {"bytes": None, "path": "p"}}] * 3
    assert notes == ("3 values of 'image' are binary data, read as null",)


@pytest.mark.parametrize(
    "record",
    [
        {"id": "0", "data": ["Q", "A"]},
        {"data": [{"role": "user", "content": "Q"}], "id": 1},
        {"prompt": "Q", "items": [{"a": 1}]},
        {"messages": [{"role": "user", "content": "Q"}]},
        {"rows": [{"a": 1}], "items": [{"b": 1}]},
    ],
)
def test_an_object_that_is_a_record_stays_one(tmp_path, record):
    for content in (json.dumps(record), json.dumps(record, indent=2), json.dumps([record])):
        assert read(tmp_path, content.encode())[1] == [record]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'[{"a": 1},\n{"a": 2},\n{"a": ', "cut off in the value that begins on line 3"),
        (b'[{"a": 1},\n{"a": 2}', "cut off on line 2: its array has no end"),
        (b'[{"a": 1}\n{"a": 2}]', "line 2: '{' where ',' or ']' must follow a record"),
        (b'{"data": [{"a": 1}, {"a"', "cut off in the value that begins on line 1"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "a quote in the row that begins on line 3 has no end"),
        (b"a,b,a\n1,2,3\n", "names the field 'a' twice"),
        (file_formats.parquet(ROWS)[:-300] + b"x" * 300, "broken Parquet data"),
        (file_formats.arrow(ROWS)[:-20], "broken Arrow data"),
        (archive({"a.jsonl": lines(ROWS)})[:-30], "broken zip archive"),
        (archive({}), "the archive is empty"),
        (archive({"a.pdf": b"%PDF-1.7"}), "csv/a.pdf: a PDF document"),
        (archive({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}), "an Office document"),
        ('{"a": 1}\n'.encode("utf-16")[:-1], r"broken UTF-16 data"),
    ],
)
def test_a_broken_file_names_the_place_and_is_not_to_be_skipped(cfg, tmp_path, content, says):
    (tmp_path / "file.csv").write_bytes(content)
    for policy in ("raise", "skip"):
        with pytest.raises(ConfigError, match=says) as error:
            data = cfg(f"jsonl:{tmp_path}/file.csv", on_bad_record=policy)
            sources.whole(source_spec.parse(data.data)[0], data, None)
        assert str(tmp_path / "file.csv") in str(error.value) and "on_bad_record" not in str(error.value)


def test_an_encrypted_member_is_named(tmp_path):
    content = bytearray(archive({"a.jsonl": lines(ROWS)}))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    with pytest.raises(ConfigError, match=r"file/a\.jsonl: it is encrypted; unpack"):
        read(tmp_path, bytes(content))


def test_a_member_whose_data_are_broken_is_an_error_and_not_left_out(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(archive({"a.jsonl": lines(ROWS)}))
    with zipfile.ZipFile(path) as opened_archive:
        start = opened_archive.getinfo("a.jsonl").header_offset + 60
    content = bytearray(path.read_bytes())
    content[start : start + 8] = b"\xff" * 8
    with pytest.raises(ConfigError, match="broken zip data"):
        read(tmp_path, bytes(content))


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b'{"a": 1', "not JSON (Expecting ',' delimiter at column 8)"),
        (b'{"a": "x', "not JSON (Unterminated string starting at column 7)"),
        (b'{\n"a": 1,\n]', "not JSON (Expecting property name enclosed in double quotes at line 3 of it, column 1)"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 7"),
        (b"[1]", "not a JSON object but list"),
        (b"null", "not a JSON object but NoneType"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not JSON (a number of more than 4,300 digits)"),
        (b'{"a": ' + b"[" * 100_000, "not JSON (deeper than 200 lists and objects)"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "too deep: more than 200 lists and objects inside one another"),
    ],
)  # fmt: skip
def test_what_is_no_record_says_what_is_wrong(line, wrong):
    assert parse(line, {}, ReadNotes()) == ("", wrong)


def test_odd_values_are_read_as_python_reads_them_and_repeated_keys_are_counted():
    notes = ReadNotes()
    line = b'{"a": NaN, "b": 99999999999999999999, "c": "\\ud800", "d": {"e": 1, "e": 2}}'
    assert parse(line, {}, notes) == (line.decode(), "")
    assert parse(b'{"a": ' + b"[" * 199 + b"]" * 199 + b"}", {}, notes)[1] == ""
    assert parse(json.dumps({"a": "[{" * 500}).encode(), {}, notes)[1] == ""
    assert notes.lines() == ("records with a key twice, of which the last value counts: 1",)


def test_arrow_data_without_pyarrow_name_the_extra(monkeypatch, tmp_path):
    (tmp_path / "a.parquet").write_bytes(file_formats.parquet(ROWS))
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pyarrow" else real(name, *rest)
    )
    with pytest.raises(ConfigError, match=r"a\.parquet: Parquet data, which needs .*'jaxtrain\[hf\]'"):
        file_records.kind_of(tmp_path / "a.parquet")


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.jsonl: cannot be read \(No such file"):
        list(file_records.records(tmp_path / "gone.jsonl", ReadNotes()))


def test_progress_adds_up_to_the_size(tmp_path):
    for kind in ("lines", "pretty array", "gz", "zip", "Parquet"):
        path = tmp_path / "file"
        path.write_bytes(FORMATS[kind](ROWS * 20))
        done = []
        list(file_records.records(path, ReadNotes(), done.append))
        assert sum(done) == os.path.getsize(path) and min(done) >= 0


def test_numbers_are_those_of_the_file(cfg, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,n\na,1\nb,2\n")
    records, _ = opened(cfg(f"jsonl:{tmp_path}/a.csv", eval_data="tinytown:pretrain"))
    assert numbers(records) == ["1", "2"]
