"""Atomic writes: a file has its name once it is complete and on the disk. JSON lines, written and read."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from jaxtrain.config import ConfigError, dumps, is_remote
from jaxtrain.files.checksums import TEMPORARY, sealed, unsealed


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file opened for writing that takes the place of `path` when the context ends without an error.

    After a crash `path` holds the old content or the new one. One writer at a time.
    """
    if is_remote(path):
        from jaxtrain.files import paths

        with paths.uploading(path, mode) as file:
            yield file
        return
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with replacing(path, "w") as file:
        file.write(text)


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON record with its checksum, atomically."""
    write_text(path, dumps(sealed(record)) + "\n")


def read_sealed(path: Path) -> Any:
    """The JSON of a file, a record without its checksum. Raises OSError, and ValueError where it is damaged."""
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON, its end included."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records as JSON lines, atomically."""
    with replacing(path, "w") as file:
        file.writelines(map(json_line, records))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines that was written whole."""
    with path.open(encoding="utf-8", newline="\n") as file:  # text may hold other ends of lines
        return [json.loads(line) for line in file]


def check_export(store: Path, out: Path) -> None:
    """Raises ConfigError where there is no --store, or where --export does not name a new .jsonl file."""
    if not store.is_file():
        raise ConfigError(f"--store={store}: no such file")
    if out.exists():
        raise ConfigError(f"--export={out}: it is there already; name a new file, or remove it")
    if out.suffix != ".jsonl" or not out.parent.is_dir():
        raise ConfigError(f"--export={out}: write FOLDER/NAME.jsonl, in a folder that is there")
