"""The database of human preferences as training reads it."""

import json
import sqlite3
from contextlib import closing

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import preferences_db

TABLES = """
CREATE TABLE items (number INTEGER PRIMARY KEY, prompt TEXT, responses TEXT, why TEXT, wanted INTEGER);
CREATE TABLE votes (id INTEGER PRIMARY KEY, item INTEGER, annotator TEXT, created REAL, kind TEXT, shown TEXT,
    ranking TEXT, reason TEXT, undone REAL);
"""
USER = [{"role": "user", "content": "Hi?"}]
TALK = [*USER, {"role": "assistant", "content": "Yo."}, {"role": "user", "content": "Why?"}]


@pytest.fixture
def database(tmp_path):
    """Two responses to one prompt and three to another; votes of two annotators."""
    path = tmp_path / "votes.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
        connection.execute(f"PRAGMA application_id = {preferences_db.APPLICATION}")
        connection.execute(f"PRAGMA user_version = {preferences_db.SCHEMA}")
        for number, prompt, texts in ((1, USER, "xy"), (2, TALK, "pqr")):
            responses = json.dumps([{"text": text, "model": f"m{text}"} for text in texts])
            connection.execute(
                "INSERT INTO items VALUES (?, ?, ?, '', 2)", (number, json.dumps(prompt), responses)
            )
        for item, who, kind, shown, ranking, undone in (
            (1, "ann", "chosen", [1, 0], [2, 1], None),
            (1, "bob", "both_bad", [0, 1], [1, 1], None),
            (1, "bob", "chosen", [0, 1], [1, 2], 3.0),
            (2, "ann", "chosen", [2, 0, 1], [1, 2, 2], None),
            (2, "bob", "skip", [0, 1, 2], [], None),
        ):
            values = (item, who, kind, json.dumps(shown), json.dumps(ranking), undone)
            connection.execute(
                "INSERT INTO votes (item, annotator, created, kind, shown, ranking, reason, undone) "
                "VALUES (?, ?, 0, ?, ?, ?, 'so', ?)",
                values,
            )
        connection.commit()
    return path


def test_votes_are_records_in_the_order_shown(database):
    with closing(preferences_db.connect(database)) as connection:
        first, tie, ranked = preferences_db.rows(connection)
    assert first == {
        "prompt": "Hi?", "response_a": "y", "response_b": "x", "preferred": "a", "reason": "so", "annotator": "ann",
        "item": 1, "models": ["my", "mx"],
    }  # fmt: skip
    assert (tie["preferred"], tie["both_bad"], tie["annotator"]) == ("tie", True, "bob")
    assert (ranked["completions"], ranked["ranking"]) == (["r", "p", "q"], [2, 1, 2])
    assert ranked["prompt"] == TALK and ranked["models"] == ["mr", "mp", "mq"] and "both_bad" not in ranked


def test_an_export_is_what_training_reads(database, tmp_path):
    lines = preferences_db.as_lines(database, tmp_path / "cache")
    assert preferences_db.as_lines(database, tmp_path / "cache") == lines
    assert preferences_db.export(database, tmp_path / "votes.jsonl") == 3
    assert (tmp_path / "votes.jsonl").read_bytes() == lines.read_bytes()
    assert preferences_db.as_lines(tmp_path / "votes.jsonl", tmp_path) == tmp_path / "votes.jsonl"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE votes SET undone = 1 WHERE annotator = 'bob'")
        connection.commit()
    later = preferences_db.as_lines(database, tmp_path / "cache")
    assert later != lines and later.read_text(encoding="utf-8").count("\n") == 2


def test_another_database_is_refused(tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection:
        connection.executescript(TABLES)
    with pytest.raises(
        ConfigError, match=r"not a store of \./launch/run collect_preferences, of this version"
    ):
        preferences_db.connect(tmp_path / "other.sqlite")
