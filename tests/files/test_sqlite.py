"""SQLite files: damage is named where a file is opened or a row is read, and a check ends in bounded time."""

import contextlib
import random
import sqlite3

import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.data import completions_db, preferences_db
from jaxtrain.files import sqlite
from jaxtrain.inference.request_cache import RequestCache

TABLES = (
    "CREATE TABLE IF NOT EXISTS completions (seq INTEGER PRIMARY KEY, created INTEGER, body TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_time ON completions (created)",
)
KIND = completions_db.APPLICATION, completions_db.SCHEMA


def made(path, rows=300):
    sqlite.create(path, TABLES, *KIND, completions_db.connect)
    with contextlib.closing(sqlite.open_connection(path)) as db:
        bodies = [(i, f'{{"id": "{i}", "text": "{"word " * 40}"}}') for i in range(rows)]
        db.executemany("INSERT INTO completions (created, body) VALUES (?, ?)", bodies)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def test_damage_is_named_and_never_a_traceback(tmp_path):
    """Bits flipped, pages zeroed and exchanged, cut off: opened, read, and opened for writing."""
    whole, draw, refused = made(tmp_path / "store").read_bytes(), random.Random(7), 0
    page = 4096
    count = len(whole) // page
    for case in range(60):
        bits = bytearray(whole)
        at = draw.randrange(count) * page
        if case % 4 == 0:
            bits[draw.randrange(200)] ^= 1 << draw.randrange(8)
        elif case % 4 == 1:
            bits[at : at + page] = bytes(page)
        elif case % 4 == 2:
            other = draw.randrange(count) * page
            bits[at : at + page], bits[other : other + page] = (
                whole[other : other + page],
                whole[at : at + page],
            )
        else:
            del bits[draw.randrange(1, len(whole)) :]
        path = tmp_path / f"damaged{case}"
        path.write_bytes(bits)
        if bits == whole or not completions_db.is_database(path):
            continue
        try:
            completions_db.as_lines(path, tmp_path / "cache")
            sqlite.create(path, TABLES, *KIND, completions_db.connect)
        except ConfigError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 30
    path = tmp_path / "damaged"
    path.write_bytes(whole[: len(whole) // 2 // page * page])
    with pytest.raises(ConfigError, match=r"damaged: .*malformed.*sqlite3 .* \.recover \| sqlite3 NEW"):
        completions_db.connect(path)


def test_a_row_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "votes"
    votes = "CREATE TABLE votes (id INTEGER, item, annotator, kind, shown, ranking, reason, undone)"
    items = "CREATE TABLE items (number INTEGER, prompt, responses)"
    sqlite.create(
        path, (votes, items), preferences_db.APPLICATION, preferences_db.SCHEMA, preferences_db.connect
    )
    with contextlib.closing(sqlite.open_connection(path)) as db:
        db.execute("INSERT INTO items VALUES (1, '[', '[]')")
        db.execute("INSERT INTO votes VALUES (1, 1, 'a', 'chosen', '[0, 1]', '[1, 2', '', NULL)")
    for use in (preferences_db.as_lines, lambda path, out: preferences_db.export(path, out / "x.jsonl")):
        with pytest.raises(
            ConfigError, match=r"votes: cannot be read \(JSONDecodeError: .*restore it from a copy"
        ):
            use(path, tmp_path)
    assert not (tmp_path / "x.jsonl").exists()


def test_a_check_that_takes_too_long_stops_and_says_so(tmp_path, capsys, monkeypatch):
    path = made(tmp_path / "store")
    monkeypatch.setattr(sqlite, "_OPERATIONS", 10)
    with contextlib.closing(sqlite.open_connection(path)) as db:
        assert sqlite.damage(db) == "" and capsys.readouterr().err == ""
        assert sqlite.damage(db, within=0) == ""
        assert f"{path}: checked in part, in 0 seconds" in capsys.readouterr().err
        assert db.execute("SELECT count(*) FROM completions").fetchone() == (300,), "it goes on being used"


def test_a_damaged_request_cache_is_named_before_a_request_is_sent(tmp_path):
    path = tmp_path / "c.sqlite"
    cache = RequestCache(path)
    for i in range(300):
        cache.put(f"{i}" * 9, {"text": "answer " * 30})
    cache.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + bytes(4096) + whole[12288:])
    with pytest.raises(Failure, match=r"c\.sqlite cannot be used .*move the file away"):
        RequestCache(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
