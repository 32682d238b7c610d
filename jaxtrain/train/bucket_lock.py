"""The lock of a workdir in a bucket, which has no flock: an object with its holder's name, renewed while it runs.

The object is created only where none is, a precondition that the store itself checks. A holder that died renews it no
more, and the next run takes it over once it has watched it unchanged for DEAD_AFTER seconds; no clock is compared with
another machine's.
"""

import contextlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxtrain.config import ConfigError, is_bucket_error
from jaxtrain.files import paths

RENEW_EVERY = 8.0  # seconds
DEAD_AFTER = (
    25.0  # seconds without a renewal; other hosts wait for the lock, and on CPUs for 30 seconds at most
)
SETTLES_WITHIN = 2.0  # seconds in which two runs that take a lock over see each other


@contextlib.contextmanager
def hold(file: Path, workdir: Path, holder: str, lost: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds the lock `file` of a workdir until the context ends.

    Raises ConfigError where a running process holds it. `lost` is called, with a message, once another process has
    taken it over, which it may after a loss of the network of DEAD_AFTER seconds; by default that ends this process.
    """
    lock = _Lock(file, f"{holder}, {secrets.token_hex(4)}")
    lock.acquire(workdir)
    stop = threading.Event()
    renewing = threading.Thread(target=lock.keep, args=(stop, lost or _end), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        lock.release()


class _Lock:
    def __init__(self, file: Path, holder: str):
        self._file, self._holder, self._renewals = file, holder, 0
        self._store = paths.file_system(file)

    def acquire(self, workdir: Path) -> None:
        with paths.explained(f"--workdir={workdir}"):
            if self._create():
                return
            before = self._read()
            print(
                f"--workdir={workdir} is locked by {_name(before)}: taken over where it does not renew this within "
                f"{DEAD_AFTER:.0f} s ...",
                file=sys.stderr,
                flush=True,
            )
            until = time.monotonic() + DEAD_AFTER
            while time.monotonic() < until:
                time.sleep(min(1.0, DEAD_AFTER / 10))
                now = self._read()
                if not now and self._create():
                    return
                if now != before:
                    raise _in_use(workdir, now)
            self._write()
            time.sleep(SETTLES_WITHIN)
            if _name(now := self._read()) != self._holder:
                raise _in_use(workdir, now)

    def keep(self, stop: threading.Event, lost: Callable[[str], None]) -> None:
        """Renews the lock until `stop`. A renewal that the network prevents is tried again."""
        while not stop.wait(RENEW_EVERY):
            try:
                if _name(now := self._read()) != self._holder:
                    lost(f"the lock {self._file} was taken over by {_name(now) or 'nobody: it was deleted'}")
                    return
                self._write()
            except Exception as error:
                if not (isinstance(error, OSError) or is_bucket_error(error)):
                    raise
                print(f"the lock {self._file} could not be renewed: {error}", file=sys.stderr, flush=True)

    def release(self) -> None:
        with paths.explained(str(self._file)):
            if _name(self._read()) == self._holder:
                self._store.rm_file(str(self._file))

    def _create(self) -> bool:
        try:
            self._store.pipe_file(str(self._file), self._content(), mode="create")
        except OSError:  # gcsfs raises FileExistsError, s3fs another
            there = self._read()
            if not there:
                raise
            return _name(there) == self._holder  # it may be the answer alone that did not arrive
        return True

    def _read(self) -> str:
        """The holder's name and the number of its renewals; empty where there is no lock."""
        try:
            return self._store.cat_file(str(self._file)).decode()
        except FileNotFoundError:
            return ""

    def _write(self) -> None:
        self._renewals += 1
        self._store.pipe_file(str(self._file), self._content())

    def _content(self) -> bytes:
        return f"{self._holder}\n{self._renewals}\n".encode()


def _name(content: str) -> str:
    return content.partition("\n")[0]


def _in_use(workdir: Path, content: str) -> ConfigError:
    return ConfigError(
        f"--workdir={workdir} is in use by {_name(content) or 'a process that has only just ended'}: "
        "wait for it to end, stop it, or name another --workdir"
    )


def _end(message: str) -> None:
    print(
        f"error: {message}: this run stops, so that two do not write the same files",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
