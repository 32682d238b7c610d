"""What people are asked, who looks at what, and what they answered, in a SQLite file that several may write at once."""

import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.apps.serve import store
from jaxtrain.data import preferences_db

_TABLES = (
    "CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # No responses: the prompt was left out, for the reason in `why`. `wanted`: annotators who are to answer.
    """CREATE TABLE IF NOT EXISTS items (
        number INTEGER PRIMARY KEY, prompt TEXT NOT NULL, responses TEXT, why TEXT NOT NULL,
        wanted INTEGER NOT NULL)""",
    # `shown`: the responses in the order on the page. `ranking`: each response's rank, 1 the best; empty: skipped.
    """CREATE TABLE IF NOT EXISTS votes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, item INTEGER NOT NULL REFERENCES items, annotator TEXT NOT NULL,
        created REAL NOT NULL, kind TEXT NOT NULL, shown TEXT NOT NULL, ranking TEXT NOT NULL, reason TEXT NOT NULL,
        undone REAL)""",
    "CREATE UNIQUE INDEX IF NOT EXISTS one_each ON votes (item, annotator) WHERE undone IS NULL",
    "CREATE TABLE IF NOT EXISTS looks (annotator TEXT PRIMARY KEY, item INTEGER NOT NULL, since REAL NOT NULL)",
)
# The first item that lacks a vote, counting those who look at it now, and that the annotator has not answered.
_NEXT = """
SELECT number FROM items WHERE responses IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM votes WHERE item = number AND annotator = :who AND undone IS NULL)
AND wanted > (SELECT count(*) FROM votes WHERE item = number AND undone IS NULL AND kind != 'skip')
    + (SELECT count(*) FROM looks WHERE item = number AND annotator != :who AND since > :since)
ORDER BY number LIMIT 1
"""
_PROGRESS = """
SELECT (SELECT coalesce(sum(wanted), 0) FROM items WHERE responses IS NOT NULL),
(SELECT coalesce(sum(min(wanted, n)), 0) FROM (SELECT wanted, (SELECT count(*) FROM votes
    WHERE item = number AND undone IS NULL AND kind != 'skip') AS n FROM items WHERE responses IS NOT NULL)),
(SELECT count(*) FROM votes WHERE annotator = :who AND undone IS NULL AND kind != 'skip'),
(SELECT count(*) FROM votes WHERE annotator = :who AND undone IS NULL AND kind = 'skip')
"""
_MINE = "SELECT id, item FROM votes WHERE annotator = ? AND undone IS NULL ORDER BY id DESC LIMIT 1"


class AnnotationItem(NamedTuple):
    """A question to an annotator. `responses` are in the order in which this annotator sees them."""

    number: int
    messages: list[dict[str, Any]]
    responses: list[str]
    shown: list[int]
    reason: str  # of this annotator's answer that was undone


class AnnotationProgress(NamedTuple):
    wanted: int  # votes
    given: int  # of those
    mine: int  # votes of the annotator
    skipped: int  # by the annotator


class AnnotationDB:
    """One file. Each call is a transaction of its own: it is on the disk when the call returns, or nothing of it is."""

    def __init__(self, path: Path, lease: float):
        """`lease`: seconds for which a question that somebody looks at is kept from the others."""
        self.path, self.lease = path, lease
        store.create(path, _TABLES, preferences_db.APPLICATION, preferences_db.SCHEMA, preferences_db.connect)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(store.open_connection(self.path)) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def about(self, key: str, value: str) -> str:
        """What the file has under a key; `value`, kept from now on, where it has nothing, or no prompt yet."""
        with self._all_or_nothing() as db:
            kept = db.execute("SELECT 1 FROM items LIMIT 1").fetchone()
            db.execute(f"INSERT OR {'IGNORE' if kept else 'REPLACE'} INTO about VALUES (?, ?)", (key, value))
            return db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()[0]

    def add(self, rows: Sequence[tuple[int, Any, list[dict[str, str]] | None, str, int]]) -> None:
        """Keeps (number, messages, responses, why there are none, annotators wanted); what is there stays as it is."""
        with self._all_or_nothing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?)",
                [
                    (n, _json(asked), _json(found) if found else None, *rest)
                    for n, asked, found, *rest in rows
                ],
            )

    def numbers(self) -> set[int]:
        """Prompts that need no drawing any more."""
        with self._all_or_nothing() as db:
            return {number for (number,) in db.execute("SELECT number FROM items")}

    def left_out(self) -> dict[str, int]:
        """Why prompts were left out, and how many."""
        with self._all_or_nothing() as db:
            return dict(db.execute("SELECT why, count(*) FROM items WHERE responses IS NULL GROUP BY why"))

    def next(self, who: str) -> AnnotationItem | None:
        """The question that an annotator is looking at, else the next one, kept from others for a while."""
        with self._all_or_nothing() as db:
            now = time.time()
            held = db.execute("SELECT item FROM looks WHERE annotator = ?", (who,)).fetchone()
            held = held or db.execute(_NEXT, {"who": who, "since": now - self.lease}).fetchone()
            if held is None:
                return None
            db.execute("REPLACE INTO looks VALUES (?, ?, ?)", (who, held[0], now))
            return _item(db, held[0], who)

    def vote(
        self, who: str, number: int, kind: str, places: Sequence[int], reason: str, shown: Sequence[int]
    ) -> bool:
        """Keeps an answer, `places` of the responses as `shown`. False where the annotator has given one already."""
        ranks = [0] * len(shown)
        steps = sorted(set(places))
        for i, place in zip(shown, places, strict=False):
            ranks[i] = 1 + steps.index(place)
        with self._all_or_nothing() as db:
            db.execute("DELETE FROM looks WHERE annotator = ? AND item = ?", (who, number))
            row = (number, who, time.time(), kind, _json(shown), _json(ranks if places else []), reason)
            names = "item, annotator, created, kind, shown, ranking, reason"
            sql = f"INSERT OR IGNORE INTO votes ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)"
            return db.execute(sql, row).rowcount == 1

    def item(self, number: int, who: str) -> AnnotationItem | None:
        """A question as an annotator sees it."""
        with self._all_or_nothing() as db:
            return _item(db, number, who)

    def undo(self, who: str) -> bool:
        """Takes the annotator's last answer or skip back and shows its question again. It stays in the file, undone."""
        with self._all_or_nothing() as db:
            last = db.execute(_MINE, (who,)).fetchone()
            if last is None:
                return False
            db.execute("UPDATE votes SET undone = ? WHERE id = ?", (time.time(), last[0]))
            db.execute("REPLACE INTO looks VALUES (?, ?, ?)", (who, last[1], time.time()))
            return True

    def unskip(self, who: str) -> int:
        """Takes all the annotator's skips back; returns their number."""
        with self._all_or_nothing() as db:
            sql = "UPDATE votes SET undone = ? WHERE annotator = ? AND kind = 'skip' AND undone IS NULL"
            return db.execute(sql, (time.time(), who)).rowcount

    def progress(self, who: str = "") -> AnnotationProgress:
        with self._all_or_nothing() as db:
            return AnnotationProgress(*db.execute(_PROGRESS, {"who": who}).fetchone())

    def labels(self) -> dict[str, dict[tuple[int, ...], str]]:
        """Annotator -> (item, response, response) -> which is better, for those who judge how far people agree."""
        found: dict[str, dict[tuple[int, ...], str]] = {}
        sql = "SELECT item, annotator, kind, ranking FROM votes WHERE undone IS NULL AND kind != 'skip'"
        with self._all_or_nothing() as db:
            rows = db.execute(sql).fetchall()
        for item, who, kind, ranking in rows:
            ranks = json.loads(ranking)
            for i in range(len(ranks)):
                for j in range(i + 1, len(ranks)):
                    even = kind if kind == preferences_db.BOTH_BAD else "tie"
                    better = even if ranks[i] == ranks[j] else "first" if ranks[i] < ranks[j] else "second"
                    found.setdefault(who, {})[item, i, j] = better
        return found

    def export(self) -> str:
        """The votes as JSON lines."""
        with contextlib.closing(preferences_db.connect(self.path)) as found:
            return "".join(preferences_db.lines(found))


def _item(db: sqlite3.Connection, number: int, who: str) -> AnnotationItem | None:
    found = db.execute(
        "SELECT prompt, responses FROM items WHERE number = ? AND responses IS NOT NULL", (number,)
    ).fetchone()
    if found is None:
        return None
    written: list[Mapping[str, str]] = json.loads(found[1])
    shown = list(range(len(written)))
    random.Random(f"{number} {who}").shuffle(shown)  # the same after a reload, another for each annotator
    sql = "SELECT reason FROM votes WHERE item = ? AND annotator = ? AND undone IS NOT NULL ORDER BY id DESC LIMIT 1"
    reason = db.execute(sql, (number, who)).fetchone()
    return AnnotationItem(
        number, json.loads(found[0]), [written[i]["text"] for i in shown], shown, reason[0] if reason else ""
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
