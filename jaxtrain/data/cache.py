"""Folders that appear whole or not at all, and digests."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxtrain.config import ConfigError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_CHUNK = 1 << 22


def digest(*parts: object) -> str:
    """20 hexadecimal digits that stand for the parts' text."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()


def digest_file(path: Path) -> str:
    """20 hexadecimal digits that stand for the bytes of a file."""
    state = hashlib.blake2b(digest_size=10)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def build(path: Path, fill: Callable[[Path], None]) -> Path:
    """`path`, a folder that `fill` makes if it is missing.

    `fill` works in a folder beside it that is renamed at the end, so a process that dies leaves nothing
    that is later taken as whole, and the next build removes what it left. Of several processes one builds
    and the others wait; where the file system has no locks each builds and the first to finish wins. Raises
    ConfigError where the disk is full.
    """
    if path.is_dir():
        return path
    with full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / f".{path.name}.lock") as alone:
            if path.is_dir():
                return path
            if alone:
                for left in path.parent.glob(f".{path.name}.tmp-*"):
                    shutil.rmtree(left)
            work = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
            try:
                work.mkdir()
                fill(work)
                _sync(work)
                _rename(work, path)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return path


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Turns "no space left" into a ConfigError that says where, and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError, with the system's words
        if getattr(error, "errno", None) not in _FULL and not any(
            os.strerror(e) in str(error) for e in _FULL
        ):
            raise
        raise ConfigError(
            f"--cache_dir: no space left while writing {path}; free some, or name a folder on another disk. "
            "Nothing half-written is kept"
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
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
    _sync_one(path.parent)


def _sync(folder: Path) -> None:
    for where, _, names in os.walk(folder):
        for name in names:
            _sync_one(Path(where) / name)
        _sync_one(Path(where))


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
