"""Cache folders that appear whole or not at all, and digests."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.files import checksums

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_CHUNK = 1 << 22
_LARGE = 1 << 28  # bytes of a file whose digest is stored: it takes a quarter of a second


def digest(*parts: object) -> str:
    """A digest of the parts' repr, 20 hexadecimal digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()


def digest_file(path: Path, memo: Path) -> str:
    """A digest of the bytes of a file, 20 hexadecimal digits.

    That of a large file is stored in `memo` until its size or a time of change differs.
    """
    stat = path.stat()
    stored = memo / digest(
        str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
    )
    if stat.st_size >= _LARGE and stored.is_file():
        return stored.read_text()
    state = hashlib.blake2b(digest_size=10)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    if stat.st_size >= _LARGE:
        with full_disk(stored):
            memo.mkdir(parents=True, exist_ok=True)
            write_whole(stored, state.hexdigest())
    return state.hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is there whole or not at all, also where several processes write it at once."""
    fresh = path.parent / f".{uuid.uuid4().hex}"
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    fresh.rename(path)


def build(
    path: Path,
    fill: Callable[[Path], None],
    flag: str = "cache_dir",
    verified: Collection[str] | None = None,
    wait: bool = True,
) -> Path:
    """`path`, a folder that `fill` writes if it is missing.

    `fill` writes to a folder beside it that is renamed at the end: a process that dies leaves no folder that
    looks complete, and the next build removes what it left. Of several processes one builds and the others
    wait; where the file system has no locks each builds and the first to finish wins. A folder whose files differ
    from their checksums is written anew, with a line: those that `verified` names, by default all. Raises ConfigError
    where the disk is full, and without `wait` BlockingIOError where another process builds.
    """
    if intact(path, verified):
        return path
    with full_disk(path, flag):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / f".{path.name}.lock", wait) as alone:
            if path.is_dir():
                return path
            if alone:
                for left in path.parent.glob(f".{path.name}.tmp-*"):
                    shutil.rmtree(left)
            work = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
            try:
                work.mkdir()
                fill(work)
                checksums.write(work)
                _sync(work)
                _rename(work, path)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return path


def intact(path: Path, verified: Collection[str] | None = None) -> bool:
    """Whether a folder of `build` is there with the files that were written; a damaged one is moved away, with a line.

    The files of an earlier release, which have no checksums, are taken as they are. A large file is read again where
    its size or a time of change differs from the last time. With `verified` these files alone are read.
    """
    if not path.is_dir():
        return False
    number = path.stat().st_ino
    memo = path.parent / f".{path.name}.verified"
    known = _read_memo(memo)
    stamps = {str(file.relative_to(path)): _stamp(file) for file in path.rglob("*") if file.is_file()}
    if verified is not None:
        wrong = next(checksums.wrong(path, verified), "")
    elif known == stamps:
        small = [name for name, (size, *_) in stamps.items() if size < _LARGE]
        wrong = next(checksums.wrong(path, small), "")
    else:
        wrong = next(checksums.wrong(path), "")
    if not wrong:
        if verified is None and known != stamps and any(size >= _LARGE for size, *_ in stamps.values()):
            _write_memo(memo, stamps)
        return True
    aside = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"  # the next build removes it
    with contextlib.suppress(FileNotFoundError):  # another process was first
        if path.stat().st_ino == number:
            path.rename(aside)
    print(f"{wrong}: made anew", file=sys.stderr, flush=True)
    return False


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read_memo(memo: Path) -> Any:
    try:
        return json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_memo(memo: Path, stamps: dict[str, list[int]]) -> None:
    try:
        write_whole(memo, json.dumps(stamps))
    except OSError as error:  # a cache that may not be written: its large files are read each time
        print(f"{memo}: not written ({error.strerror})", file=sys.stderr)


@contextlib.contextmanager
def full_disk(path: Path, flag: str = "cache_dir") -> Iterator[None]:
    """Turns "no space left" into a ConfigError that names the path and the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError, with the system's words
        if getattr(error, "errno", None) not in _FULL and not any(
            os.strerror(e) in str(error) for e in _FULL
        ):
            raise
        raise ConfigError(
            f"--{flag}: no space left while writing {path}; free some, or name a folder on another disk. "
            "Nothing half-written is kept"
        ) from error


@contextlib.contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    with path.open("w") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                print(
                    f"waiting for another process that builds {path.parent}/{path.stem[1:]} ...",
                    file=sys.stderr,
                )
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if isinstance(error, BlockingIOError) or error.errno not in _NO_LOCKS:
                raise
            yield False
        else:
            yield True


def _rename(work: Path, path: Path) -> None:
    try:
        work.rename(path)
    except OSError:
        if not path.is_dir():  # else another process was first, where there are no locks
            raise
    sync(path.parent)


def _sync(folder: Path) -> None:
    for where, _, names in os.walk(folder):
        for name in names:
            sync(Path(where) / name)
        sync(Path(where))


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
