"""Checksums of files: `checksums.json` in a folder has those of the files beside it, a record of JSON has its own.

They are SHA-256, of what this project wrote. A folder or record without them, of an earlier release or another project,
is taken as it is.
"""

import concurrent.futures
import fnmatch
import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError, is_remote

FILE = "checksums.json"
TEMPORARY = ".tmp"  # suffix of a file under way, which files/atomic.py writes, too
WEIGHTS = "*.safetensors"
_FORMAT, _SUM = "format", "sha256"  # keys of a record: one is lost where the other is not
_FILES = "files"  # the field of checksums.json
_VERSION = 2  # of records with a checksum
_CHUNK = 1 << 22


def json_sha256(value: Any) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as JSON has it, with its checksum; `unsealed` takes it off again."""
    body = {_FORMAT: _VERSION, **json.loads(json.dumps(record))}
    return {**body, _SUM: json_sha256(body)}


def unsealed(record: Any) -> Any:
    """A record without its checksum. Raises ValueError where it differs from what was written."""
    if not isinstance(record, dict) or not {_FORMAT, _SUM} & record.keys():
        return record
    body = {name: value for name, value in record.items() if name != _SUM}
    if record.get(_SUM) != json_sha256(body) or _FORMAT not in body:
        raise ValueError("it differs from what was written (SHA-256)")
    return {name: value for name, value in body.items() if name != _FORMAT}


def of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def write(
    folder: Path,
    skip: Sequence[str] = (),
    *,
    largest: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Writes checksums.json for all files of a folder and those below it, except those of `skip`'s names and those that
    a killed process was writing.

    largest: of a file with more bytes it has the size alone. sizes: {file: bytes}, which a bucket lists at once.
    """

    def entry(name: str) -> tuple[int, str | None]:
        size = sizes[name] if sizes else (folder / name).stat().st_size
        return size, of_file(folder / name) if largest is None or size <= largest else None

    names = [
        name
        for name in sizes or _names(folder)
        if name not in skip and Path(name).name != FILE and not name.endswith(TEMPORARY)
    ]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        files = dict(zip(names, pool.map(entry, names), strict=True))
    text = json.dumps(sealed({_FILES: files}), indent=1) + "\n"
    if is_remote(folder):
        (folder / FILE).write_text(text, encoding="utf-8")
        return
    temporary = folder / f"{FILE}{TEMPORARY}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / FILE)


def read(folder: Path) -> dict[str, tuple[int, str | None]] | None:
    """{file: (bytes, SHA-256)} of a folder, None where it has none. Raises ValueError, which names checksums.json.

    The SHA-256 is None where the size alone was written. A file of this name with none of our fields is another
    project's.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / FILE} cannot be read ({error})") from error
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not {_FORMAT, _SUM, _FILES} & record.keys():
            return None
        files = unsealed(record)[_FILES]
        return {str(name): (int(size), one and str(one)) for name, (size, one) in files.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / FILE} is damaged ({error})") from error


def wrong(
    folder: Path,
    names: Collection[str] | None = None,
    *,
    partial: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[str]:
    """What differs in a folder from its checksums.json, one line a file; nothing where it has none.

    names: the files to look at, by default all. partial: the folder is a copy of some of them. sizes: as in `write`.
    """
    try:
        files = read(folder) or {}
    except ValueError as error:
        yield str(error)
        return
    for name, (size, expected) in files.items():
        if names is not None and name not in names:
            continue
        path = folder / name
        try:
            have = sizes.get(name, -1) if sizes else path.stat().st_size
            if have < 0:
                raise FileNotFoundError
            if have != size:
                yield f"{path} has {have:,} bytes, {size:,} were written"
            elif expected is not None and of_file(path) != expected:
                yield f"{path} differs from what was written (SHA-256)"
        except FileNotFoundError:
            if not partial:
                yield f"{path} is missing"
        except OSError as error:
            yield f"{path} cannot be read ({error.strerror or error})"


def require(folder: Path, what: str, *, partial: bool = False) -> None:
    """Raises ConfigError, which begins with `what`, where files of a folder differ from its checksums.json.

    Weights are left to `require_weights`, since they are large.
    """
    try:
        files = read(folder)
    except ValueError:
        files = {}
    if files is not None:
        _require(folder, what, {name for name in files if not fnmatch.fnmatch(name, WEIGHTS)}, partial)


def require_weights(folder: Path, what: str, part: slice = slice(None)) -> None:
    """The same for the folder's weights, or a part of their files."""
    try:
        names = sorted(fnmatch.filter(read(folder) or {}, WEIGHTS))[part]
    except ValueError:
        names = []
    _require(folder, what, names, partial=False)


def _require(folder: Path, what: str, names: Collection[str], partial: bool) -> None:
    stats = tuple((name, _stamp(folder / name)) for name in sorted({*names, FILE}))
    for line in _wrong_once(folder, tuple(names), stats, partial):
        raise ConfigError(
            f"{what}: {line}. Restore it from a copy, or export the folder again; to take the files as they are, "
            f"such as after an edit of your own, delete {folder / FILE}"
        )


@functools.lru_cache(maxsize=256)
def _wrong_once(folder: Path, names: tuple[str, ...], stats: Any, partial: bool) -> tuple[str, ...]:
    """`wrong` of files that have not changed since this process read them."""
    return tuple(wrong(folder, names, partial=partial))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _names(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != FILE
    )
