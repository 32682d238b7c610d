"""The annotation database: items, who looks at which, and votes, in a SQLite file that several processes may write."""

import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.data import preferences_db
from jaxtrain.files import sqlite

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
# The first item that lacks a vote, counting its current viewers, and that the annotator has not voted on.
_NEXT = """
SELECT number FROM items WHERE responses IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM votes WHERE item = number AND annotator = :annotator AND undone IS NULL)
AND wanted > (SELECT count(*) FROM votes WHERE item = number AND undone IS NULL AND kind != 'skip')
    + (SELECT count(*) FROM looks WHERE item = number AND annotator != :annotator AND since > :since)
ORDER BY number LIMIT 1
"""
_PROGRESS = """
SELECT (SELECT coalesce(sum(wanted), 0) FROM items WHERE responses IS NOT NULL),
(SELECT coalesce(sum(min(wanted, n)), 0) FROM (SELECT wanted, (SELECT count(*) FROM votes
    WHERE item = number AND undone IS NULL AND kind != 'skip') AS n FROM items WHERE responses IS NOT NULL)),
(SELECT count(*) FROM votes WHERE annotator = :annotator AND undone IS NULL AND kind != 'skip'),
(SELECT count(*) FROM votes WHERE annotator = :annotator AND undone IS NULL AND kind = 'skip')
"""
_MINE = "SELECT id, item FROM votes WHERE annotator = ? AND undone IS NULL ORDER BY id DESC LIMIT 1"


class AnnotationItem(NamedTuple):
    """A prompt and its responses as an annotator sees them."""

    number: int
    messages: list[dict[str, Any]]
    responses: list[str]  # in the order of `shown`
    shown: list[int]  # indices of the stored responses, shuffled for this annotator
    reason: str  # of this annotator's last vote that was undone


class ItemRow(NamedTuple):
    """An item as it is stored."""

    number: int
    messages: list[Mapping[str, Any]]
    responses: list[dict[str, str]] | None  # text and model of each; None: the prompt is left out
    why: str  # it is left out
    wanted: int  # annotators


class AnnotationProgress(NamedTuple):
    """Numbers of votes."""

    wanted: int
    given: int  # of the wanted ones
    mine: int  # of the annotator
    skipped: int  # by the annotator


class AnnotationDB:
    """The database of one file. Each method is one transaction, which is on the disk when the method returns."""

    def __init__(self, path: Path, lease: float):
        """`lease`: seconds for which an item that an annotator looks at is not given to others."""
        self.path, self.lease = path, lease
        sqlite.create(
            path, _TABLES, preferences_db.APPLICATION, preferences_db.SCHEMA, preferences_db.connect
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite.open_connection(self.path)) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def setting(self, key: str, value: str) -> str:
        """The stored setting of a key. `value` is stored first if there is none, or if there are no items yet."""
        with self._transaction() as db:
            binding = db.execute("SELECT 1 FROM items LIMIT 1").fetchone()
            db.execute(
                f"INSERT OR {'IGNORE' if binding else 'REPLACE'} INTO about VALUES (?, ?)", (key, value)
            )
            return db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()[0]

    def add_items(self, rows: Sequence[ItemRow]) -> None:
        """Stores items; those whose number is stored already stay as they are."""
        with self._transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        row.number,
                        _json(row.messages),
                        _json(row.responses) if row.responses else None,
                        row.why,
                        row.wanted,
                    )
                    for row in rows
                ],
            )

    def item_numbers(self) -> set[int]:
        """The numbers of the stored items, those left out with them."""
        with self._transaction() as db:
            return {number for (number,) in db.execute("SELECT number FROM items")}

    def left_out(self) -> dict[str, int]:
        """Reason -> number of the prompts left out for it."""
        with self._transaction() as db:
            return dict(db.execute("SELECT why, count(*) FROM items WHERE responses IS NULL GROUP BY why"))

    def next_item(self, annotator: str) -> AnnotationItem | None:
        """The item that an annotator looks at, else the next one, leased to the annotator; None: nothing is left."""
        with self._transaction() as db:
            now = time.time()
            row = db.execute("SELECT item FROM looks WHERE annotator = ?", (annotator,)).fetchone()
            row = row or db.execute(_NEXT, {"annotator": annotator, "since": now - self.lease}).fetchone()
            if row is None:
                return None
            db.execute("REPLACE INTO looks VALUES (?, ?, ?)", (annotator, row[0], now))
            return _item(db, row[0], annotator)

    def add_vote(
        self, annotator: str, number: int, kind: str, places: Sequence[int], reason: str, shown: Sequence[int]
    ) -> bool:
        """Stores a vote, `places` of the responses as `shown`. False if the annotator has voted on the item already."""
        ranking = [0] * len(shown)
        distinct = sorted(set(places))
        for i, place in zip(shown, places, strict=False):
            ranking[i] = 1 + distinct.index(place)
        with self._transaction() as db:
            db.execute("DELETE FROM looks WHERE annotator = ? AND item = ?", (annotator, number))
            row = (
                number,
                annotator,
                time.time(),
                kind,
                _json(shown),
                _json(ranking if places else []),
                reason,
            )
            names = "item, annotator, created, kind, shown, ranking, reason"
            sql = f"INSERT OR IGNORE INTO votes ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)"
            return db.execute(sql, row).rowcount == 1

    def item(self, number: int, annotator: str) -> AnnotationItem | None:
        """An item as an annotator sees it; None where there is none of that number."""
        with self._transaction() as db:
            return _item(db, number, annotator)

    def undo(self, annotator: str) -> bool:
        """Undoes the annotator's last vote or skip, whose item comes next again; False if there is none.

        The vote stays in the file, marked as undone.
        """
        with self._transaction() as db:
            last = db.execute(_MINE, (annotator,)).fetchone()
            if last is None:
                return False
            db.execute("UPDATE votes SET undone = ? WHERE id = ?", (time.time(), last[0]))
            db.execute("REPLACE INTO looks VALUES (?, ?, ?)", (annotator, last[1], time.time()))
            return True

    def unskip(self, annotator: str) -> int:
        """Undoes all skips of the annotator; returns their number."""
        with self._transaction() as db:
            sql = "UPDATE votes SET undone = ? WHERE annotator = ? AND kind = 'skip' AND undone IS NULL"
            return db.execute(sql, (time.time(), annotator)).rowcount

    def progress(self, annotator: str = "") -> AnnotationProgress:
        """The numbers of votes: of all annotators, and of this one."""
        with self._transaction() as db:
            return AnnotationProgress(*db.execute(_PROGRESS, {"annotator": annotator}).fetchone())

    def labels(self) -> dict[str, dict[tuple[int, ...], str]]:
        """Annotator -> (item, response, response) -> which is better, as measures.agreement takes them."""
        labels: dict[str, dict[tuple[int, ...], str]] = {}
        sql = "SELECT item, annotator, kind, ranking FROM votes WHERE undone IS NULL AND kind != 'skip'"
        with self._transaction() as db:
            rows = db.execute(sql).fetchall()
        for item, annotator, kind, ranking in rows:
            ranks = json.loads(ranking)
            for i in range(len(ranks)):
                for j in range(i + 1, len(ranks)):
                    equal = kind if kind == preferences_db.BOTH_BAD else "tie"
                    better = equal if ranks[i] == ranks[j] else "first" if ranks[i] < ranks[j] else "second"
                    labels.setdefault(annotator, {})[item, i, j] = better
        return labels

    def export(self) -> str:
        """The votes as JSON lines."""
        with contextlib.closing(preferences_db.connect(self.path)) as db:
            return "".join(preferences_db.lines(db))


def _item(db: sqlite3.Connection, number: int, annotator: str) -> AnnotationItem | None:
    row = db.execute(
        "SELECT prompt, responses FROM items WHERE number = ? AND responses IS NOT NULL", (number,)
    ).fetchone()
    if row is None:
        return None
    messages, responses = json.loads(row[0]), json.loads(row[1])
    shown = list(range(len(responses)))
    random.Random(f"{number} {annotator}").shuffle(
        shown
    )  # the same after a reload, another for each annotator
    sql = "SELECT reason FROM votes WHERE item = ? AND annotator = ? AND undone IS NOT NULL ORDER BY id DESC LIMIT 1"
    reason = db.execute(sql, (number, annotator)).fetchone()
    return AnnotationItem(
        number=number,
        messages=messages,
        responses=[responses[i]["text"] for i in shown],
        shown=shown,
        reason=reason[0] if reason else "",
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
