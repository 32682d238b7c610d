"""The completions that a server keeps, in a SQLite file that one thread of its own writes."""

import contextlib
import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError
from jaxtrain.data import completions_db
from jaxtrain.files import atomic

Json = dict[str, Any]

_TABLE = """
CREATE TABLE IF NOT EXISTS completions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    model TEXT NOT NULL,
    metadata TEXT NOT NULL,
    body TEXT NOT NULL
)
"""
_ORDER = "CREATE INDEX IF NOT EXISTS by_time ON completions (created, seq)"
_TOGETHER = 256  # writes of one transaction at most
_BUSY = 30.0  # seconds that a write waits for another process


class CompletionStore:
    """Writes are queued and done together, on the disk when their future has its result; reads see those that are.

    A process may be killed at any time: what was on the disk is there, and nothing half-written is.
    """

    def __init__(self, path: Path):
        self.path = path
        create(
            path, (_TABLE, _ORDER), completions_db.APPLICATION, completions_db.SCHEMA, completions_db.connect
        )
        self._queue: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future] | None]
        self._queue = queue.SimpleQueue()
        self._reading, self._read = threading.Lock(), open_connection(path)
        self._writer = threading.Thread(target=self._write, name="store", daemon=True)
        self._writer.start()

    def add(self, completion: Json) -> "Future[None]":
        """Keeps a completion."""
        sql = "INSERT INTO completions (id, created, model, metadata, body) VALUES (?, ?, ?, ?, ?)"

        def insert(db: sqlite3.Connection) -> None:
            head = [completion[name] for name in ("id", "created", "model")]
            db.execute(sql, (*head, json.dumps(completion["metadata"]), completions_db.dumps(completion)))

        return self._soon(insert)

    def update(self, number: str, metadata: Mapping[str, str]) -> "Future[Json | None]":
        """Gives a completion other metadata; None where there is none of that id."""

        def change(db: sqlite3.Connection) -> Json | None:
            found = db.execute("SELECT body FROM completions WHERE id = ?", (number,)).fetchone()
            if found is None:
                return None
            changed = json.loads(found[0]) | {"metadata": dict(metadata)}
            row = (json.dumps(changed["metadata"]), completions_db.dumps(changed), number)
            db.execute("UPDATE completions SET metadata = ?, body = ? WHERE id = ?", row)
            return changed

        return self._soon(change)

    def delete(self, number: str) -> "Future[bool]":
        """Whether there was one of that id."""
        return self._soon(
            lambda db: db.execute("DELETE FROM completions WHERE id = ?", (number,)).rowcount == 1
        )

    def get(self, number: str) -> Json | None:
        """The completion of an id."""
        found = self._rows("SELECT body FROM completions WHERE id = ?", (number,))
        return json.loads(found[0][0]) if found else None

    def page(
        self, after: str, limit: int, descending: bool, model: str, metadata: Mapping[str, str]
    ) -> tuple[list[Json], bool] | None:
        """(completions by time, whether there are more); None where `after` names none. Empty names mean any."""
        where, values = ["1"], []
        if after:
            start = self._rows("SELECT created, seq FROM completions WHERE id = ?", (after,))
            if not start:
                return None
            where.append(f"(created, seq) {'<' if descending else '>'} (?, ?)")
            values += start[0]
        if model:
            where.append("model = ?")
            values.append(model)
        for key, value in metadata.items():
            where.append("EXISTS (SELECT 1 FROM json_each(metadata) AS m WHERE m.key = ? AND m.value = ?)")
            values += [key, value]
        order = "DESC" if descending else "ASC"
        sql = f"SELECT body FROM completions WHERE {' AND '.join(where)} ORDER BY created {order}, seq {order} LIMIT ?"
        found = self._rows(sql, (*values, limit + 1))
        return [json.loads(body) for (body,) in found[:limit]], len(found) > limit

    @property
    def waiting(self) -> int:
        """Writes that are queued."""
        return self._queue.qsize()

    def close(self) -> None:
        """Returns once all that was asked for is written."""
        self._queue.put(None)
        self._writer.join()
        with self._reading:
            self._read.close()

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple]:
        with self._reading:
            return self._read.execute(sql, values).fetchall()

    def _soon(self, work: Callable[[sqlite3.Connection], Any]) -> Future:
        future: Future = Future()
        self._queue.put((work, future))
        return future

    def _write(self) -> None:
        with contextlib.closing(open_connection(self.path)) as db:
            while (first := self._queue.get()) is not None:
                batch = [first]
                while len(batch) < _TOGETHER and not self._queue.empty():
                    if (one := self._queue.get()) is None:
                        self._queue.put(None)
                        break
                    batch.append(one)
                _written(db, [one for one in batch if one[1].set_running_or_notify_cancel()])


def _written(db: sqlite3.Connection, batch: Sequence[tuple[Callable, Future]]) -> None:
    """Does all writes in one transaction, or none where one fails, as on a full disk."""
    try:
        db.execute("BEGIN IMMEDIATE")
        done = [work(db) for work, _ in batch]
        db.execute("COMMIT")
    except Exception as error:  # whoever asked hears of it, and the thread goes on
        if db.in_transaction:
            db.execute("ROLLBACK")
        for _, future in batch:
            future.set_exception(error)
        return
    for (_, future), result in zip(batch, done, strict=True):
        future.set_result(result)


def open_connection(path: Path) -> sqlite3.Connection:
    """A connection that waits for other processes' writes; a transaction is the caller's to begin."""
    return sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)


def create(
    path: Path,
    tables: Sequence[str],
    application: int,
    schema: int,
    connect: Callable[[Path], sqlite3.Connection],
) -> None:
    """Makes a --store where there is none. Raises ConfigError where it is something else, or cannot be made."""
    if path.exists() and path.stat().st_size:
        connect(path).close()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def export(path: Path, out: Path) -> int:
    """Writes the completions of a store as JSON lines; returns their number. The file has its name once it is whole."""
    with contextlib.closing(completions_db.connect(path)) as db, atomic.replacing(out, "w") as file:
        count = sum(1 for body in completions_db.bodies(db) if file.write(body + "\n"))
    return count
