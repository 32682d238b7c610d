"""Records as the bytes of files of every kind that is read."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Rows = Sequence[Mapping[str, Any]]


def lines(rows: Rows) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: Rows, delimiter: str = ",") -> bytes:
    """A delimited text, with a header."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return file.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file, row_group_size=7)
    return file.getvalue()


def arrow(rows: Rows, stream: bool = False) -> bytes:
    """An Arrow file, or a stream."""
    file, content = io.BytesIO(), pa.Table.from_pylist(list(rows))
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=9)
    return file.getvalue()


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()


def _halves(rows: Rows) -> tuple[Rows, Rows]:
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def _page(rows: Rows) -> dict[str, Any]:
    return {"object": "list", "data": list(rows), "first_id": "a", "last_id": "z", "has_more": False}


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "lines": lines,
    "array": lambda rows: json.dumps(list(rows)).encode(),
    "pretty array": lambda rows: _pretty(list(rows)),
    "array with a record a line": lambda rows: (
        b"[\n" + b",\n".join(json.dumps(row).encode() for row in rows) + b"\n]\n"
    ),
    "pretty objects": lambda rows: b"\n".join(map(_pretty, rows)),
    "objects on one line": lambda rows: lines(rows).replace(b"\n", b""),
    "lines that end with commas": lambda rows: lines(rows).replace(b"\n", b",\n"),
    "lines that end as on old Macs": lambda rows: lines(rows).replace(b"\n", b"\r"),
    "list in an object": lambda rows: json.dumps({"version": 1, "data": list(rows)}).encode(),
    "list in a pretty object": lambda rows: _pretty({"rows": list(rows), "total": len(rows)}),
    "pages": lambda rows: lines([_page(half) for half in _halves(rows)]),
    "UTF-8 with mark, CRLF, blank lines": lambda rows: (
        b"\xef\xbb\xbf" + lines(rows).replace(b"\n", b"\r\n") + b"\n \n"
    ),
    "UTF-16": lambda rows: lines(rows).decode().encode("utf-16"),
    "UTF-16 without mark": lambda rows: lines(rows).decode().encode("utf-16-be"),
    "UTF-32": lambda rows: lines(rows).decode().encode("utf-32"),
    "pretty array in UTF-16": lambda rows: _pretty(list(rows)).decode().encode("utf-16"),
    "gz": lambda rows: gzip.compress(lines(rows)),
    "gz of several members, padded": lambda rows: b"".join(
        [*(gzip.compress(lines(half)) for half in _halves(rows)), bytes(40)]
    ),
    "gz of gz": lambda rows: gzip.compress(gzip.compress(lines(rows))),
    "bz2": lambda rows: bz2.compress(lines(rows)),
    "xz": lambda rows: lzma.compress(lines(rows)),
    "lzma": lambda rows: lzma.compress(lines(rows), format=lzma.FORMAT_ALONE),
    "zst of several frames": lambda rows: b"".join(
        zstandard.ZstdCompressor().compress(lines(half)) for half in _halves(rows)
    ),
    "zst of a pretty array": lambda rows: zstandard.ZstdCompressor().compress(_pretty(list(rows))),
    "zip": lambda rows: archive({"folder/a.jsonl": lines(rows)}),
    "zip of several": lambda rows: archive(
        {"__MACOSX/._a": b"\0\5\x16", "a.jsonl": lines(rows[:3]), "b.parquet": parquet(rows[3:])}
    ),
    "Parquet": parquet,
    "Parquet in gz": lambda rows: gzip.compress(parquet(rows)),
    "Arrow file": arrow,
    "Arrow stream": lambda rows: arrow(rows, stream=True),
}  # of any records
TABLES: dict[str, Callable[[Rows], bytes]] = {
    "CSV": table,
    "CSV in UTF-16": lambda rows: table(rows).decode().encode("utf-16"),
    "CSV with semicolons": lambda rows: table(rows, ";"),
    "TSV": lambda rows: table(rows, "\t"),
    "CSV in zst": lambda rows: zstandard.ZstdCompressor().compress(table(rows)),
}  # of records whose values are texts
