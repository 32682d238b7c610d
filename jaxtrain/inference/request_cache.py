"""Responses of endpoints on disk, so that no request is paid for twice: SQLite, one row a request."""

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtrain.config import Failure
from jaxtrain.files import sqlite

_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, made TEXT DEFAULT CURRENT_TIMESTAMP, answer TEXT)"
_WAIT = 30.0  # seconds to wait for another process's lock


def key_of(url: str, path: str, request: Mapping[str, Any]) -> str:
    """The request's key. A seed is part of the request, so that samples stay apart."""
    whole = json.dumps([url, path, request], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


class RequestCache:
    """Responses by key, for any number of threads and processes. A response is stored whole or not at all.

    Raises Failure where the file cannot be used.
    """

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        with self._as_failure():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(_TABLE)
                if wrong := sqlite.damage(self._db):
                    raise sqlite3.DatabaseError(wrong)
            except sqlite3.Error:
                self._db.close()
                raise

    def get(self, key: str) -> Any | None:
        with self._lock, self._as_failure():
            row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, response: Any) -> None:
        with self._lock, self._as_failure():
            text = json.dumps(response, ensure_ascii=True)
            self._db.execute("INSERT OR REPLACE INTO answers (key, answer) VALUES (?, ?)", (key, text))

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _as_failure(self):
        try:
            yield
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise Failure(
                f"the request cache {self._path} cannot be used ({error}): move the file away, or free the disk; its "
                "requests are then sent again"
            ) from error
