"""The records of a file of any kind that file_kinds names, each as JSON text with its place in the file."""

import io
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain import full_disk
from jaxtrain.config import ConfigError
from jaxtrain.data import compressed, file_kinds, json_values, read_limits, tables, zip_members
from jaxtrain.data.bad_records import is_unicode
from jaxtrain.data.file_kinds import FileKind
from jaxtrain.data.read_limits import Expanding, Expansion, ReadLimits

DEEPEST = 200  # lists and objects inside one another: programs that read a record call themselves for each
_PASSED_OVER = 1 << 20  # bytes of a line that is too long that are read at once
_ARCHIVES = 3  # one inside another
_BLANK = 64  # lines one after another
_TICK = 256  # records between two reports of progress
_NAMES = {str: "a string", list: "a list", dict: "an object"}
_OF_PAGES = ("object", "first_id", "last_id")  # keys of OpenAI's pages that say nothing
_OFFICE = "an Office document (a zip archive of XML)"


class FileRecord(NamedTuple):
    """A record: what stands after the file's path in messages, such as `:12`, and its JSON text or the raw text of
    something else.
    """

    place: str
    text: bytes
    wrong: str = ""  # what is wrong with it; an empty string where that is not yet known


class ReadNotes:
    """What was left out of files, or read in a way that people should know, as lines."""

    def __init__(self) -> None:
        self.repeated = 0  # records with a key twice, of which the last counts
        self._beside: Counter[str] = Counter()
        self._binary: Counter[str] = Counter()
        self._members: list[str] = []

    def lines(self) -> tuple[str, ...]:
        """The lines; none where nothing was left out."""
        return (
            *(
                [f"records with a key twice, of which the last value counts: {self.repeated:,}"]
                if self.repeated
                else []
            ),
            *(f"{text} (in {count:,} objects)" for text, count in self._beside.items()),
            *(
                f"{count:,} values of {name!r} are binary data, read as null"
                for name, count in self._binary.items()
            ),
            *self._members,
        )

    def beside(self, key: str, others: list[str]) -> None:
        """Notes the keys beside a list of records."""
        others = [one for one in others if one not in _OF_PAGES]
        if others:
            self._beside[f"beside the records under {key!r}, not read: {', '.join(others[:8])}"] += 1

    def binary(self, counts: Counter[str]) -> None:
        """Notes binary values by column."""
        self._binary.update(counts)

    def member(self, error: file_kinds.OtherKind) -> None:
        """Notes a member of an archive that holds no records."""
        self._members.append(f"left out: {error}")


class _Task(NamedTuple):
    """A file, or a member of an archive, that is read: its name in messages, and what its file shares."""

    label: str
    notes: ReadNotes
    limits: ReadLimits
    expansion: Expansion
    archives: int = 0  # that it stands in


def kind_of(path: Path) -> FileKind:
    """The kind of a file, a zip archive's members unread. Raises ConfigError where it holds no records, with what it
    is, or cannot be read.
    """
    with reading(path), _regular(path) as raw:
        size = os.fstat(raw.fileno()).st_size
        expansion = Expansion(read_limits.DEFAULT, str(path), size)
        return _identified(raw, _Task(str(path), ReadNotes(), read_limits.DEFAULT, expansion))[0]


class reading:
    """A context in which an OSError of a file becomes a ConfigError that names it; a full disk stays what it is."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError) and not full_disk.is_full(error):
            raise ConfigError(
                f"{self._path}: cannot be read ({error.strerror or error}); is it still there, and may you read it?"
            ) from error


def _regular(path: Path) -> Any:
    """A file opened to be read. Raises ConfigError for a pipe, a socket or a device, without waiting for it."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ConfigError(f"{path}: it is not a regular file: data are read several times")
    return file


def state(path: Path) -> tuple[int, ...]:
    """What differs once a file is written again: size, time of change, and its number in the file system."""
    with reading(path):
        found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino


def records(
    path: Path,
    notes: ReadNotes,
    advance: Callable[[int], None] = lambda done: None,
    limits: ReadLimits = read_limits.DEFAULT,
) -> Iterator[FileRecord]:
    """The records of a file; one that is longer than the limits allow is wrong. `advance` is called with the bytes read
    from disk.

    Raises ConfigError where the file is of another kind, expands beyond the limits, changes while it is read, or is
    broken so that what follows cannot be read.
    """
    with reading(path), _regular(path) as raw:
        before, position = state(path), 0
        task = _Task(str(path), notes, limits, Expansion(limits, str(path), before[0]))
        for i, record in enumerate(_of_kind(raw, task)):
            if i % _TICK == 0:
                position, last = max(position, raw.tell()), position
                advance(position - last)
            yield record
        advance(before[0] - position)
        if state(path) != before:
            raise ConfigError(f"{path}: it changed while it was read; start again once it is written")


class _Joined(io.RawIOBase):
    """The first bytes of a stream that were read, then the rest of it."""

    def __init__(self, head: bytes, rest: Any):
        self._head, self._rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            return self._rest.readinto(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count], self._head = self._head[:count], self._head[count:]
        return count


def _identified(raw: Any, task: _Task) -> tuple[FileKind, Any, str]:
    """(the kind of a buffered stream's content, the content, the suffixes of its compression)."""
    content, how = compressed.decompressed(raw, task.label, task.expansion)
    try:
        head = content.read(file_kinds.HEAD)
    except compressed.BROKEN as error:
        raise compressed.broken(task.label, 1, how, error) from error
    kind = file_kinds.identify(head, len(head) < file_kinds.HEAD, task.label)
    if content is raw and _is_file(raw):
        raw.seek(0)
        return kind, raw, how
    return kind, io.BufferedReader(_Joined(head, content), compressed.BLOCK), how


def _is_file(content: Any) -> bool:
    return isinstance(getattr(content, "raw", None), io.FileIO)


def _of_kind(raw: Any, task: _Task) -> Iterator[FileRecord]:
    kind, content, how = _identified(raw, task)
    if kind.name in _TEXTS:
        if kind.encoding != "utf-8":
            content, how = (
                compressed.as_utf8(content, kind.encoding),
                f"{how} {kind.encoding.upper()}".strip(),
            )
        yield from _TEXTS[kind.name](_Text(content, kind, task.label, how), task.notes, task.limits)
    else:
        with _seekable(content, how, task.label) as file:
            yield from _BINARIES[kind.name](file, task)


def _seekable(content: Any, how: str, label: str) -> Any:
    """The content in a file that can seek: itself, or decompressed on the disk."""
    if _is_file(content):
        return content
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    try:
        shutil.copyfileobj(content, file, 1 << 20)
    except compressed.BROKEN as error:
        file.close()
        raise compressed.broken(label, 1, how, error) from error
    file.seek(0)
    return file


class _Text(NamedTuple):
    """The decompressed UTF-8 of a file, and how it was compressed and encoded."""

    content: Any
    kind: FileKind
    label: str
    how: str


def _of_lines(text: _Text, notes: ReadNotes, limits: ReadLimits) -> Iterator[FileRecord]:
    number = blank = 0
    try:
        while line := text.content.readline(limits.record + 1):
            number += 1
            blank = blank + 1 if line == b"\n" else 0
            if blank > _BLANK:  # a line at a time would take minutes for some hundred MB of them
                number += _blank_lines(text.content)
            size = len(line) + (0 if line.endswith(b"\n") else _rest_of_line(text.content))
            record = FileRecord(f":{number}", line.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n"))
            if wrong := limits.too_long(size - line.endswith(b"\n")):
                yield record._replace(wrong=wrong)
            elif record.text.strip():
                yield from _page(record, notes)
    except compressed.BROKEN as error:
        raise compressed.broken(text.label, number + 1, text.how, error) from error


def _blank_lines(content: Any) -> int:
    """The number of blank lines at the begin of what is buffered, which are passed over."""
    ready = content.peek(1)
    return len(content.read(len(ready) - len(ready.lstrip(b"\n"))))


def _rest_of_line(content: Any) -> int:
    """The bytes up to the end of the line, which are passed over."""
    size = 0
    while more := content.readline(_PASSED_OVER):
        size += len(more.removesuffix(b"\n"))
        if more.endswith(b"\n"):
            break
    return size


def _page(record: FileRecord, notes: ReadNotes) -> Iterator[FileRecord]:
    """A line's record; the records of one that is a page of a list, as OpenAI's are."""
    if b'"list"' not in record.text or b'"data"' not in record.text:
        yield record
        return
    try:
        page = json.loads(record.text)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict) or page.get("object") != "list" or not isinstance(page.get("data"), list):
        yield record
        return
    notes.beside("data", [key for key in page if key != "data"])
    for i, one in enumerate(page["data"]):
        yield FileRecord(f"{record.place} data[{i}]", json.dumps(one).encode())


def _of_values(text: _Text, notes: ReadNotes, limits: ReadLimits) -> Iterator[FileRecord]:
    line = 1
    try:
        with io.TextIOWrapper(text.content, "utf-8-sig", "surrogateescape", newline="") as stream:
            for i, value in enumerate(json_values.values(stream, notes.beside, limits.record)):
                line = value.line
                record = value.text.encode("utf-8", "surrogateescape")
                wrong = limits.too_long(max(len(record), value.size), "record")
                yield FileRecord(f":{line}" if line > 1 else f":1 record {i}", record, wrong)
    except json_values.Broken as error:
        raise ConfigError(f"{text.label}: {error}; correct the file, or fetch it again") from error
    except compressed.BROKEN as error:
        raise compressed.broken(text.label, line, text.how, error) from error


def _of_table(text: _Text, notes: ReadNotes, limits: ReadLimits) -> Iterator[FileRecord]:
    number = 0
    try:
        with io.TextIOWrapper(text.content, "utf-8-sig", "surrogateescape", newline="") as stream:
            for row in tables.delimited(stream, text.kind.delimiter, limits):
                number = row.number
                yield _row(row, f":{number}", limits)
    except tables.Unreadable as error:
        raise ConfigError(f"{text.label}: {error}; correct the file") from error
    except compressed.BROKEN as error:
        raise compressed.broken(text.label, number + 1, text.how, error) from error


def _row(row: tables.Row, place: str, limits: ReadLimits) -> FileRecord:
    if row.wrong:
        return FileRecord(place, row.raw, row.wrong)
    text = json.dumps(row.record, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return FileRecord(place, text, limits.too_long(len(text), "row"))


def _of_parquet(file: Any, task: _Task) -> Iterator[FileRecord]:
    return _arrow_rows(lambda counts: tables.parquet(file, counts, task.expansion), "Parquet", task)


def _of_arrow_file(file: Any, task: _Task) -> Iterator[FileRecord]:
    return _arrow_rows(lambda counts: tables.arrow(file, False, counts, task.expansion), "Arrow", task)


def _of_arrow_stream(file: Any, task: _Task) -> Iterator[FileRecord]:
    return _arrow_rows(lambda counts: tables.arrow(file, True, counts, task.expansion), "Arrow", task)


def _arrow_rows(
    rows: Callable[[Counter[str]], Iterator[tables.Row]], what: str, task: _Task
) -> Iterator[FileRecord]:
    binary: Counter[str] = Counter()
    try:
        for row in rows(binary):
            record = _row(row, f" row {row.number}", task.limits)
            task.expansion.add(len(record.text))
            yield record
    except tables.Unreadable as error:
        raise ConfigError(f"{task.label}: broken {what} data ({error}); fetch the file again") from error
    task.notes.binary(binary)


def _of_zip(file: Any, task: _Task) -> Iterator[FileRecord]:
    if task.archives == _ARCHIVES:
        raise ConfigError(f"{task.label}: an archive inside {_ARCHIVES} others; unpack them")
    try:
        with zip_members.open_archive(file) as archive:
            # Several members may share their compressed bytes.
            task.expansion.check(sum(one.file_size for one in archive.infolist()))
            yield from _members(archive, task._replace(archives=task.archives + 1))
    except zip_members.BrokenZip as error:
        raise ConfigError(f"{task.label}: broken zip archive ({error}); fetch the file again") from error


def _members(archive: zipfile.ZipFile, task: _Task) -> Iterator[FileRecord]:
    names = archive.namelist()
    for marks, what in (
        (("[Content_Types].xml",), f"{_OFFICE}; save it as CSV"),
        (("data.pkl",), "a PyTorch checkpoint; name a file of records"),
        (("mimetype",), "an e-book or an OpenDocument file; write the records as CSV or JSON lines"),
        ((".npy",), "an archive of NumPy arrays; write the records as JSON lines or Parquet"),
    ):
        if any(name.endswith(marks) for name in names):
            raise ConfigError(f"{task.label}: {what}")
    refused, read = None, 0
    for member in zip_members.files(archive):
        inside = task._replace(label=f"{task.label}/{member.filename}")
        if member.flag_bits & 1:
            raise ConfigError(f"{inside.label}: it is encrypted; unpack the archive with its password first")
        try:
            with zip_members.open_member(archive, member) as raw:
                stream = io.BufferedReader(Expanding(raw, task.expansion), compressed.BLOCK)
                for record in _of_kind(stream, inside):
                    yield record._replace(place=f"/{member.filename}{record.place}")
            read += 1
        except file_kinds.OtherKind as error:
            task.notes.member(error)
            refused = refused or error
    if not read:
        raise refused or ConfigError(f"{task.label}: the archive is empty")


_TEXTS = {file_kinds.LINES: _of_lines, file_kinds.VALUES: _of_values, file_kinds.TABLE: _of_table}
_BINARIES = {
    file_kinds.PARQUET: _of_parquet,
    file_kinds.ARROW_FILE: _of_arrow_file,
    file_kinds.ARROW_STREAM: _of_arrow_stream,
    file_kinds.ZIP: _of_zip,
}


class _Objects:
    """Object hooks of json.loads that notice a key that stands twice."""

    def __init__(self) -> None:
        self.repeated = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        self.repeated |= len(record) < len(pairs)
        return record


def parse(line: bytes, fields: Mapping[str, type], notes: ReadNotes) -> tuple[str, str]:
    """(the record's JSON text, what is wrong with it or an empty string). It must have `fields`, each of its type."""
    objects = _Objects()
    try:
        text = line.decode("utf-8").strip(" \t\r\n\v\f")
        record = json.loads(text, object_pairs_hook=objects)
    except UnicodeDecodeError as error:
        return "", f"invalid UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} of it, " if error.lineno > 1 else ""
        return "", f"not JSON ({error.msg.removesuffix(' at')} at {where}column {error.colno})"
    except RecursionError:
        return "", f"not JSON (deeper than {DEEPEST} lists and objects)"
    except ValueError as error:
        digits = "a number of more than 4,300 digits" if "digits" in str(error) else str(error)
        return "", f"not JSON ({digits})"
    if not isinstance(record, dict):
        return "", f"not a JSON object but {type(record).__name__}"
    if text.count("[") + text.count("{") > DEEPEST and _depth(record) > DEEPEST:
        return "", f"too deep: more than {DEEPEST} lists and objects inside one another"
    for field, kind in fields.items():
        if wrong := _wrong_field(record, field, kind):
            return "", wrong
    notes.repeated += objects.repeated
    return text, ""


def _wrong_field(record: dict[str, Any], field: str, kind: type) -> str:
    if field not in record:
        there = ", ".join(map(str, list(record)[:8])) or "none"
        return f"no field {field!r} (fields: {there}); name the right one with --text_field"
    if not isinstance(record[field], kind):
        return f"field {field!r} is not {_NAMES[kind]} but {type(record[field]).__name__}"
    if kind is str and not is_unicode(record[field]):
        return f"field {field!r} holds half a surrogate pair, which is not text"
    return ""


def _depth(value: Any) -> int:
    """How many lists and objects stand inside one another."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth
