"""What a file is, by its first bytes: a kind that holds records, or another kind, which is named with what to do.

The content decides, not the name. A name ending in .csv, .tsv, .jsonl or .json counts only where the content fits
several kinds.
"""

import ast
import csv
import importlib.util
import io
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxtrain.config import ConfigError

LINES, VALUES, TABLE = "JSON lines", "JSON", "delimited text"
PARQUET, ARROW_FILE, ARROW_STREAM, ZIP = "Parquet", "Arrow file", "Arrow stream", "zip archive"
HEAD = 1 << 20  # bytes that are looked at
HF_EXTRA = "install the extra: pip install 'jaxtrain[hf]'"
LISTS = (
    "data",
    "rows",
    "records",
    "examples",
    "items",
    "instances",
)  # keys of an object that is a list of records
# Fields of a record: an object that has one is no list of records, whatever else it has.
FIELDS = frozenset((
    "prompt", "completion", "messages", "conversations", "text", "instruction", "question", "chosen", "rejected",
    "choices",
))  # fmt: skip

_BOMS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xef\xbb\xbf", "utf-8"),
         (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # fmt: skip
# Where the first two characters, which are ASCII in a JSON text, have other bytes than zeros.
_ZEROS = {
    b"\1\0\1\0": "utf-16-le",
    b"\0\1\0\1": "utf-16-be",
    b"\1\0\0\0" * 2: "utf-32-le",
    b"\0\0\0\1" * 2: "utf-32-be",
}
_BETWEEN = "{[,;|\t"
_BINARY = (
    (b"PAR1", PARQUET),
    (b"ARROW1", ARROW_FILE),
    (b"\xff\xff\xff\xff", ARROW_STREAM),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
)
_RECORDS = "write the records as JSON lines, Parquet or CSV"
_OTHERS = (
    (b"%PDF", "a PDF document", "extract its text, and write one JSON object a line"),
    (b"\x89PNG", "a PNG image", "name a file of records"),
    (b"\xff\xd8\xff", "a JPEG image", "name a file of records"),
    (b"GIF8", "a GIF image", "name a file of records"),
    (b"II*\0", "a TIFF image", "name a file of records"),
    (b"MM\0*", "a TIFF image", "name a file of records"),
    (b"RIFF", "a WebP, WAV or AVI file", "name a file of records"),
    (b"ID3", "an MP3 file", "name a file of records"),
    (b"OggS", "an Ogg file", "name a file of records"),
    (b"fLaC", "a FLAC file", "name a file of records"),
    (b"GGUF", "a GGUF file of model weights", "name a file of records"),
    (b"\x89HDF", "an HDF5 file", _RECORDS),
    (b"\x93NUMPY", "a NumPy array", _RECORDS),
    (b"SQLite format 3\0", "a SQLite database",
     "store: reads stored completions and preferences: votes; of another database export the records as JSON lines"),
    (b"ORC", "an ORC file", "write it again as Parquet"),
    (b"Obj\x01", "an Avro file", "write it again as Parquet"),
    (b"FEA1", "a Feather file of version 1", "write it again with pyarrow.feather, version 2"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "decompress it"),
    (b"\x1f\x9d", "a file of compress (.Z)", "decompress it"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save it as CSV"),
    (b"\x7fELF", "a program", "name a file of records"),
    (b"{\\rtf", "a rich text document", _RECORDS),
    (b"version https://git-lfs", "a Git LFS pointer, not the data that it stands for", "run: git lfs pull"),
)  # fmt: skip
_MARKUP = re.compile(r"<(!doctype\s+html|html|head|body|\?xml|!--|\w+[\s>])", re.IGNORECASE)
_UNFINISHED = ("{", "[", ",", ":")  # how a line of a JSON value over several lines ends
_HEADER = re.compile(
    r"\w[\w .:/()#-]{0,59}"
)  # a field's name, where nothing but the content says that it is a table
_ROWS = 200  # of a table that are looked at


class OtherKind(ConfigError):
    """A file is of a kind that holds no records."""


class FileKind(NamedTuple):
    """A kind of file that holds records; `encoding` and `delimiter` are those of text."""

    name: str
    encoding: str = "utf-8"
    delimiter: str = ""


def identify(head: bytes, whole: bool, label: str) -> FileKind:
    """The kind of a file by its first HEAD bytes, `whole` where these are all; compression is undone before.

    `label` is its path. Raises OtherKind, with what the file is, for one that holds no records.
    """
    name = label.lower()
    if not head.strip():
        return FileKind(LINES)
    for magic, kind in _BINARY:
        if head.startswith(magic):
            return _with_pyarrow(FileKind(kind), label)
    for magic, what, remedy in _OTHERS:
        if head.startswith(magic):
            raise _refusal(label, what, remedy)
    if head[257:262] == b"ustar":
        raise _refusal(label, "a tar archive", "unpack it, and name its files")
    if re.match(rb"\x80[\x02-\x05][\x80-\x95}\](cX]", head):
        raise _refusal(label, "a pickle", f"it could run any program when it is read: {_RECORDS}")
    if len(head) > 10 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 30:
        raise _refusal(label, "a safetensors file of model weights", "name a file of records")
    encoding = _by_mark(head) or _by_zeros(head)
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    return _text_kind(text, whole, name, label)._replace(encoding=encoding)


def _refusal(label: str, what: str, remedy: str) -> OtherKind:
    return OtherKind(f"{label}: {what}; {remedy}")


def _with_pyarrow(kind: FileKind, label: str) -> FileKind:
    if kind.name in (PARQUET, ARROW_FILE, ARROW_STREAM) and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"{label}: {kind.name} data, which needs the package pyarrow; {HF_EXTRA}")
    return kind


def _by_mark(head: bytes) -> str:
    """The encoding that a byte order mark names, "" where there is none.

    Damage may put a mark in front of UTF-8, which read as UTF-16 has none of the characters between fields.
    """
    encoding = next((encoding for bom, encoding in _BOMS if head.startswith(bom)), "")
    text = head.decode(encoding, "replace") if encoding not in ("", "utf-8") else _BETWEEN
    return encoding if set(_BETWEEN) & set(text) else ""


def _by_zeros(head: bytes) -> str:
    """The encoding of a text without a byte order mark, by the zeros of its beginning; one zero may be damage."""
    there = bytes(min(one, 1) for one in head[:8])
    return next((encoding for zeros, encoding in _ZEROS.items() if there.startswith(zeros)), "utf-8")


def _text_kind(text: str, whole: bool, name: str, label: str) -> FileKind:
    start = text.lstrip()
    if start[:1] in ("{", "["):
        return FileKind(_json_kind(start, whole, name, label))
    lines = [line.strip() for line in _complete_lines(start, whole)[:_ROWS]]
    if any(map(_is_object, lines)) or (".jsonl" in name and any(line.startswith('{"') for line in lines)):
        return FileKind(LINES)  # whose first is bad
    odd = sum(text.count(one) for one in "\0\x01\x02\x03\x04\x05\x06\x0e\x0f\ufffd")
    if "\0" in text[:4096] or odd > len(text) / 10:
        begins = text[:8].encode("utf-8", "replace").hex(" ")
        raise _refusal(label, f"a binary file of an unknown kind (it begins with {begins})", _RECORDS)
    if _MARKUP.match(start):
        what = "an XML document" if start.startswith("<?xml") else "an HTML page"
        raise _refusal(label, what, "did a download answer with an error or a login? Fetch the file again")
    if delimiter := _delimiter(text, whole, re.sub(r"\.(gz|bz2|xz|zst|lzma)$", "", name)):
        return FileKind(TABLE, delimiter=delimiter)
    line = start.partition("\n")[0].strip()
    raise _refusal(
        label,
        f"plain text without records (it begins with {line[:60]!r})",
        'write one JSON object a line, such as {"text": "..."}',
    )


def _complete_lines(text: str, whole: bool) -> list[str]:
    lines = text.split("\n")
    return [line for line in (lines if whole else lines[:-1]) if line.strip()]


def _is_object(line: str) -> bool:
    return line.startswith("{") and isinstance(_loaded(line), dict)


def _loaded(text: str) -> object:
    """The value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json_kind(text: str, whole: bool, name: str, label: str) -> str:
    """LINES or VALUES, for a text that begins like JSON."""
    lines = _complete_lines(text, whole)[:_ROWS]
    first = _loaded(lines[0]) if lines else None
    if text.startswith("["):
        return _array_kind(text, lines, label)
    value = first if len(lines) == 1 else _loaded(text) if whole else None
    if isinstance(value, dict) and (what := _no_list(value)):
        raise _refusal(label, what, "write a list of records: [{...}, {...}]")
    if isinstance(first, dict):
        return VALUES if len(lines) == 1 and whole and list_key(first) else LINES
    if any(map(_is_object, lines[1:])):
        return LINES  # whose first is bad
    if lines and not lines[0].startswith('{"') and _is_python(lines[0]):
        raise _refusal(
            label, "lines of Python dictionaries, not of JSON", "write each with json.dumps(record)"
        )
    if lines and _goes_on(lines[0]):
        return VALUES
    if lines and lines[0].rstrip().endswith(_UNFINISHED) and (len(lines) > 1 or not whole):
        return VALUES
    if len(lines) + (not whole) == 1:  # one line, perhaps longer than what is looked at
        listed = re.search(rf'"({"|".join(LISTS)})"\s*:\s*\[\s*\{{', text[:4096])
        return VALUES if listed or ".jsonl" not in name else LINES
    return LINES


def _array_kind(text: str, lines: list[str], label: str) -> str:
    """LINES or VALUES, for a text that begins with a bracket."""
    remedy = 'write objects with named fields, such as {"prompt": "...", "completion": "..."}'
    several = len(lines) > 1 and lines[1].lstrip()[:1] in ("[", "{")
    if several and isinstance(_loaded(lines[0]), list):
        if all(isinstance(_loaded(line), list) for line in lines):
            raise _refusal(label, "lines of JSON lists", remedy)
        return LINES  # whose first is bad
    member = lines[0].lstrip().removeprefix("[").strip().removesuffix(",") if lines else ""
    if member and not _is_object(member) and 2 * sum(map(_is_object, lines[1:])) > len(lines) - 1 > 0:
        return LINES  # whose first is bad
    if member := re.match(r'\[\s*(["\[\d])', text):
        what = {'"': "texts", "[": "lists"}.get(member.group(1), "numbers")
        raise _refusal(label, f"a JSON array of {what}", remedy)
    return VALUES


def _no_list(value: dict[str, object]) -> str:
    """What an object is that holds records otherwise than in a list; an empty string where it holds none."""
    inside = list(value.values())
    if FIELDS & value.keys() and all(isinstance(one, list) for one in inside):
        long = {len(one) for one in inside}
        flat = not any(isinstance(cell, dict | list) for one in inside for cell in one)
        return "a JSON object of columns" if flat and long != {0} and len(long) == 1 else ""
    if len(inside) < 2 or not all(isinstance(one, dict) for one in inside):
        return ""
    if FIELDS & value.keys():
        by_number = all(key.isdigit() for one in inside for key in one)
        return "a JSON object of columns, as pandas writes it" if by_number else ""
    return "a JSON object of named records" if all(FIELDS & one.keys() for one in inside) else ""


def _goes_on(line: str) -> bool:
    """Whether further objects follow the first on its line."""
    try:
        value, end = json.JSONDecoder().raw_decode(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and line[end:].lstrip(" \t\r,").startswith("{")


def _is_python(line: str) -> bool:
    try:
        return isinstance(ast.literal_eval(line), dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def list_key(value: dict[str, object]) -> str:
    """The key under which an object has a list of records, as OpenAI's pages have them under data; "" where it is a
    record itself.
    """
    if value.get("object") == "list" and isinstance(value.get("data"), list):
        return "data"
    if FIELDS & value.keys():
        return ""
    keys = [key for key in LISTS if (some := value.get(key)) and isinstance(some, list) and are_records(some)]
    return keys[0] if len(keys) == 1 else ""


def are_records(some: Sequence[object]) -> bool:
    """Whether the values of a list are records, not the messages of one."""
    return all(isinstance(one, dict) and "role" not in one and "from" not in one for one in some)


def _delimiter(text: str, whole: bool, name: str) -> str:
    """What separates the fields of a table; an empty string where a text is none."""
    named = "," if name.endswith(".csv") else "\t" if name.endswith((".tsv", ".tab")) else ""
    best = (0.0, 0, "")
    for delimiter in (named or ",", *(one for one in ",\t;|" if one != (named or ","))):
        rows = _first_rows(text, whole, delimiter)
        width = len(rows[0]) if rows else 0
        share = sum(len(row) == width for row in rows) / max(len(rows), 1)
        header = bool(rows) and len(set(rows[0])) == width and all(map(_HEADER.fullmatch, rows[0]))
        fits = share >= 0.5 if named else share == 1 and header and len(rows) > 1
        if width > 1 and fits and (share, width) > best[:2]:
            best = (share, width, delimiter)
    return best[2] or named


def _first_rows(text: str, whole: bool, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if row:
                rows.append(row)
            if len(rows) > _ROWS:
                return rows[:_ROWS]
    except csv.Error:
        return rows
    return rows if whole else rows[:-1]
