"""SQLite files of a --store flag: created with a write-ahead log, and marked with an application id and a version.

Damage is looked for where a file is opened.
"""

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxtrain.config import ConfigError

_BUSY = 30.0  # seconds that a statement waits for another process
CHECK_WITHIN = 10.0  # seconds; what SQLite checks of some GB
_OPERATIONS = 100_000  # of SQLite between two looks at the clock


def open_connection(path: Path) -> sqlite3.Connection:
    """A connection that waits for other processes' writes; transactions are left to the caller."""
    return sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)


def damage(db: sqlite3.Connection, within: float = CHECK_WITHIN) -> str:
    """What SQLite's quick_check finds wrong with a file, in a line; empty where it finds nothing.

    It reads the whole file. Where that takes longer than `within` seconds it stops, with a line on stderr.
    """
    until = time.monotonic() + within
    db.set_progress_handler(lambda: time.monotonic() > until, _OPERATIONS)
    try:
        (found, *_), *_ = db.execute("PRAGMA quick_check(1)")
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
            return str(error)
        db.set_progress_handler(None, 0)
        file = db.execute("PRAGMA database_list").fetchone()[2]
        print(f"{file}: checked in part, in {within:.0f} seconds", file=sys.stderr, flush=True)
        return ""
    finally:
        db.set_progress_handler(None, 0)
    return "" if found == "ok" else " ".join(str(found).split())


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a damaged row raises, of SQLite or where its JSON is read, into a ConfigError that names the file."""
    try:
        yield
    except ConfigError:
        raise
    except (sqlite3.Error, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); {remedy(path)}"
        ) from error


def remedy(path: Path) -> str:
    """What to do about a damaged file."""
    return f"restore it from a copy, or write what is left of it to a new file: sqlite3 {path} .recover | sqlite3 NEW"


def create(
    path: Path,
    tables: Sequence[str],
    application: int,
    schema: int,
    connect: Callable[[Path], sqlite3.Connection],
) -> None:
    """Creates the file of --store if it is missing. Raises ConfigError if it is something else or cannot be created.

    `connect` opens an existing file, and raises ConfigError if it is something else.
    """
    if path.exists() and path.stat().st_size:
        connect(path).close()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What people wrote, and the secret of cookies. SQLite's files beside it are made with the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        with contextlib.closing(open_connection(path)) as db:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            db.execute("BEGIN IMMEDIATE")
            for table in tables:
                db.execute(table)
            db.execute(f"PRAGMA application_id = {application}")
            db.execute(f"PRAGMA user_version = {schema}")
            db.execute("COMMIT")
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(
            f"--store={path}: cannot be written ({error}); name a file in a folder that can"
        ) from error
    if mode != "wal":
        raise ConfigError(
            f"--store={path}: its file system has no write-ahead log; name a file on a local disk"
        )
