"""SQLite files of a --store flag: created with a write-ahead log, and marked with an application id and a version."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtrain.config import ConfigError

_BUSY = 30.0  # seconds that a statement waits for another process


def open_connection(path: Path) -> sqlite3.Connection:
    """A connection that waits for other processes' writes; transactions are left to the caller."""
    return sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)


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
