"""Files of a bucket one after another: each is on this machine while it is read, and the next is fetched meanwhile."""

import concurrent.futures
import contextlib
import fcntl
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from jaxtrain.config import is_remote
from jaxtrain.files import cache, paths

_NAME = ".in-order-"


def in_order(files: Sequence[Path], what: str, folder: Path, *, ahead: bool = True) -> Iterator[Path]:
    """A path of this machine of each file: itself, or a copy in the cache `folder`, until the next one is taken.

    With `ahead` two copies are there at a time. Raises ConfigError and Failure as paths.local_copy does.
    """
    if not any(map(is_remote, files)):
        yield from files
        return
    with _own_folder(folder / paths.COPIES) as work, concurrent.futures.ThreadPoolExecutor(1) as pool:

        def fetch(i: int) -> Path:
            copy = work / str(i) / files[i].name
            with paths.explained(f"{what}: {files[i]}"), cache.full_disk(copy):
                copy.parent.mkdir()
                _download(files[i], copy)
            return copy

        coming = pool.submit(fetch, 0)
        for i in range(len(files)):
            copy = coming.result()
            last = i + 1 == len(files)
            if ahead and not last:
                coming = pool.submit(fetch, i + 1)
            yield copy
            shutil.rmtree(copy.parent)
            if not ahead and not last:
                coming = pool.submit(fetch, i + 1)


def _download(file: Path, copy: Path) -> None:
    paths.file_system(file).get_file(str(file), str(copy))


@contextlib.contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A new folder, which goes at the end; those of processes that were killed go, too."""
    parent.mkdir(parents=True, exist_ok=True)
    work = parent / f"{_NAME}{uuid.uuid4().hex}"
    with _lock_of(work).open("w") as mine:
        if _locked(mine):  # without locks nobody knows what is in use, and it stays
            for lock in {*parent.glob(f"{_NAME}*.lock")} - {_lock_of(work)}:
                _remove_left(lock)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work)
            _lock_of(work).unlink()


def _lock_of(work: Path) -> Path:
    return work.parent / f"{work.name}.lock"


def _remove_left(lock: Path) -> None:
    """Removes the folder of a lock that no process holds."""
    with contextlib.suppress(FileNotFoundError), lock.open() as file:
        if _locked(file):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


def _locked(file: IO[str]) -> bool:
    """Whether the file is now locked: no other process has it, and the file system has locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
