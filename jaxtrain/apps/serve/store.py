"""The store of completions: a SQLite file with one writing thread."""

import contextlib
import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from jaxtrain.data import completions_db
from jaxtrain.files import atomic, sqlite

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
_BATCH = 256  # most writes of one transaction


class CompletionStore:
    """Stored completions. Writes are queued and committed in batches; one is on the disk when its future has a result.

    Reads see the committed writes. A process may be killed at any time: no committed write is lost, none is partial.
    """

    def __init__(self, path: Path):
        self.path = path
        sqlite.create(
            path, (_TABLE, _ORDER), completions_db.APPLICATION, completions_db.SCHEMA, completions_db.connect
        )
        self._queue: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future] | None]
        self._queue = queue.SimpleQueue()
        self._read_lock, self._reader = threading.Lock(), sqlite.open_connection(path)
        self._writer = threading.Thread(target=self._run, name="store", daemon=True)
        self._writer.start()

    def add(self, completion: Json) -> "Future[None]":
        """Stores a completion."""
        sql = "INSERT INTO completions (id, created, model, metadata, body) VALUES (?, ?, ?, ?, ?)"

        def insert(db: sqlite3.Connection) -> None:
            columns = [completion[name] for name in ("id", "created", "model")]
            db.execute(sql, (*columns, json.dumps(completion["metadata"]), completions_db.dumps(completion)))

        return self._enqueue(insert)

    def update(self, completion_id: str, metadata: Mapping[str, str]) -> "Future[Json | None]":
        """Replaces the metadata of a completion; the result is the completion, None where the id is unknown."""

        def change(db: sqlite3.Connection) -> Json | None:
            row = db.execute("SELECT body FROM completions WHERE id = ?", (completion_id,)).fetchone()
            if row is None:
                return None
            completion = json.loads(row[0]) | {"metadata": dict(metadata)}
            values = (json.dumps(completion["metadata"]), completions_db.dumps(completion), completion_id)
            db.execute("UPDATE completions SET metadata = ?, body = ? WHERE id = ?", values)
            return completion

        return self._enqueue(change)

    def delete(self, completion_id: str) -> "Future[bool]":
        """Deletes a completion; the result is whether the id was known."""
        return self._enqueue(
            lambda db: db.execute("DELETE FROM completions WHERE id = ?", (completion_id,)).rowcount == 1
        )

    def get(self, completion_id: str) -> Json | None:
        """The completion of an id; None where it is unknown."""
        rows = self._rows("SELECT body FROM completions WHERE id = ?", (completion_id,))
        return json.loads(rows[0][0]) if rows else None

    def page(
        self, after: str, limit: int, descending: bool, model: str, metadata: Mapping[str, str]
    ) -> tuple[list[Json], bool] | None:
        """(completions in the order of time, whether there are more); None where the id `after` is unknown.

        An empty `after`, `model` or `metadata` does not filter.
        """
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
        rows = self._rows(sql, (*values, limit + 1))
        return [json.loads(body) for (body,) in rows[:limit]], len(rows) > limit

    @property
    def queued(self) -> int:
        """The number of queued writes."""
        return self._queue.qsize()

    def close(self) -> None:
        """Returns once all queued writes are on the disk."""
        self._queue.put(None)
        self._writer.join()
        with self._read_lock:
            self._reader.close()

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple]:
        with self._read_lock:
            return self._reader.execute(sql, values).fetchall()

    def _enqueue(self, write: Callable[[sqlite3.Connection], Any]) -> Future:
        future: Future = Future()
        self._queue.put((write, future))
        return future

    def _run(self) -> None:
        with contextlib.closing(sqlite.open_connection(self.path)) as db:
            while (first := self._queue.get()) is not None:
                batch = [first]
                while len(batch) < _BATCH and not self._queue.empty():
                    if (queued := self._queue.get()) is None:
                        self._queue.put(None)
                        break
                    batch.append(queued)
                _write_batch(db, [queued for queued in batch if queued[1].set_running_or_notify_cancel()])


def _write_batch(db: sqlite3.Connection, batch: Sequence[tuple[Callable, Future]]) -> None:
    """Commits all writes in one transaction, or none where one fails, as on a full disk."""
    try:
        db.execute("BEGIN IMMEDIATE")
        results = [write(db) for write, _ in batch]
        db.execute("COMMIT")
    except Exception as error:  # the futures report it, and the thread goes on
        if db.in_transaction:
            db.execute("ROLLBACK")
        for _, future in batch:
            future.set_exception(error)
        return
    for (_, future), result in zip(batch, results, strict=True):
        future.set_result(result)


def export(path: Path, out: Path) -> int:
    """Writes the completions of a store as JSON lines, atomically; returns their number."""
    with (
        sqlite.reading(path),
        contextlib.closing(completions_db.connect(path)) as db,
        atomic.replacing(out, "w") as file,
    ):
        return sum(1 for body in completions_db.bodies(db) if file.write(body + "\n"))
