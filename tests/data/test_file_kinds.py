"""What a file is by its first bytes."""

import json
import pickle

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import file_kinds
from jaxtrain.data.file_kinds import LINES, TABLE, VALUES, OtherKind, identify

ROW = '{"prompt": "Q", "completion": "A"}'

OTHERS = {
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "an HTML page": b"\n<!DOCTYPE html>\n<html lang=en><head>",
    "an XML document": b"<?xml version='1.0'?><a/>",
    "a safetensors file": (44).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1]}}',
    "a SQLite database": b"SQLite format 3\0" + bytes(84),
    "a pickle": pickle.dumps([{"prompt": "Q"}]),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 130\n",
    "a GGUF file": b"GGUF\3\0\0\0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "a NumPy array": b"\x93NUMPY\1\0v\0",
    "a tar archive": b"a.jsonl" + bytes(250) + b"ustar\0" + bytes(250),
    "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c\0\4",
    "an Avro file": b"Obj\x01\4\x16avro.schema",
    "a program": b"\x7fELF\2\1\1",
    "a binary file": bytes(range(256)) * 4,
    "lines of Python dictionaries": b"{'prompt': 'Q', 'completion': None}\n" * 3,
    "a JSON object of columns": b'{"prompt": ["Q", "R"], "completion": ["A", null]}',
    "a JSON object of columns, as pandas": b'{"prompt": {"0": "Q", "1": "R"}, "completion": {"0": "A", "1": "B"}}',
    "a JSON object of named records": b'{"one": {"text": "a"},\n "two": {"text": "b"}}',
    "a JSON array of texts": b'[\n"one",\n"two"\n]',
    "a JSON array of lists": b'[["Q", "A"], ["Q", "A"]]',
    "lines of JSON lists": b'["Q", "A"]\n["Q", "A"]\n',
    "plain text": b"It was the best of times, it was the worst of times.\nAnd so on, and on.\n",
}


@pytest.mark.parametrize("name", ["file", "file.jsonl", "file.json", "file.parquet"])
@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_another_kind_is_named_with_a_remedy(what, name):
    with pytest.raises(OtherKind, match=rf"^{name}: {what}") as error:
        identify(OTHERS[what], True, name)
    says = str(error.value)
    assert "; " in says and len(says) < 250 and "on_bad_record" not in says


def test_a_git_lfs_pointer_says_what_to_run():
    with pytest.raises(ConfigError, match=r"the data that it stands for; run: git lfs pull"):
        identify(OTHERS["a Git LFS pointer"], True, "a")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"{ROW}\n{ROW}\n", LINES),
        (ROW, LINES),
        (f"{ROW}\nbroken\n", LINES),
        (f"broken\n{ROW}\n", LINES),
        ('{"a": "cut\n' + ROW, LINES),
        ('{"a": "cut\n{"a": "cut\n', LINES),
        (f'["a", "b"]\n{ROW}\n', LINES),
        (f"\x00\x01 junk\n{ROW}\n", LINES),
        (f"[[[[\n{ROW}\n{ROW}\n", LINES),
        (f"[{ROW},\n{ROW}\n", VALUES),
        (f"[{ROW}]", VALUES),
        (f"[\n{ROW},\n{ROW}\n]", VALUES),
        ("[]", VALUES),
        (json.dumps(json.loads(ROW), indent=1), VALUES),
        (f"{ROW},\n{ROW},\n", VALUES),
        (f"{ROW}{ROW}", VALUES),
        (f'{{"data": [{ROW}]}}', VALUES),
        ('{"messages": [{"role": "user"}]}', LINES),
        ('{"prompt": {"text": "Q"}, "chosen": {"text": "A"}}', LINES),
        ('{"prompt": [], "completion": []}', LINES),
        ("prompt,completion\nQ,A\n", TABLE),
        ('prompt;completion\n"Q\n;";A\n', TABLE),
    ],
)
def test_the_content_decides(text, kind):
    for name in ("file", "file.jsonl", "file.txt"):
        assert identify(text.encode(), True, name).name == kind


@pytest.mark.parametrize(
    ("start", "name", "kind"),
    [
        ('{"data": [{"a": "', "x.jsonl", VALUES),
        ('{"text": "', "x.jsonl", LINES),
        ('{"text": "', "x.jsonl.gz", LINES),
        ('{"text": "', "x.json", VALUES),
        ('{\n"text": "', "x.jsonl", VALUES),
        ('[{"text": "', "x.jsonl", VALUES),
    ],
)
def test_records_longer_than_what_is_looked_at(start, name, kind):
    head = (start + "x" * file_kinds.HEAD)[: file_kinds.HEAD]
    assert identify(head.encode(), False, name).name == kind


@pytest.mark.parametrize(
    ("text", "name", "delimiter"),
    [
        ("text\nhello\nworld, again\n", "a.csv", ","),
        ("text\nhello\n", "a.tsv", "\t"),
        ("a;b\n1,5;2\n", "a.csv", ";"),
        ("a\tb\n1\t2\n", "a.csv.gz", "\t"),
        ("a|b\n1|2\n", "a", "|"),
        ('a,b\n"x\ny",2\n', "a", ","),
    ],
)
def test_the_delimiter_of_a_table(text, name, delimiter):
    assert identify(text.encode(), True, name) == (TABLE, "utf-8", delimiter)


def test_prose_with_commas_is_no_table():
    for text in ("Well, yes\nNo, never\n", "one, two\nthree, four\n", "a line\nanother line\n"):
        with pytest.raises(OtherKind, match="plain text without records"):
            identify(text.encode(), True, "notes.txt")


@pytest.mark.parametrize(
    "damage", [b"\0", b"\0\0", b"{\0", b'{"\0', b"\0\0\0", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0"]
)
def test_a_damaged_beginning_is_no_other_encoding(damage):
    """Else one bad record would take the whole file with it."""
    for first in (f"{ROW}\n", " \n"):
        content = damage + first.encode() + f" {ROW}\n".encode() * 3
        assert identify(content, True, "a.jsonl") == file_kinds.FileKind(LINES)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "utf-8-sig"])
def test_the_encoding_is_that_of_the_mark_or_of_the_zeros(encoding):
    kind = identify(f"{ROW}\n".encode(encoding), True, "a")
    assert kind.name == LINES
    assert f"{ROW}\n".encode(encoding).decode(kind.encoding).removeprefix("\ufeff") == f"{ROW}\n"


def test_nothing_but_space_is_left_to_the_reader():
    assert identify(b"", True, "a").name == identify(b" \n \n", True, "a").name == LINES
