"""The database of human preferences as training reads it."""

import json
import sqlite3
from contextlib import closing

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data import preferences_db
from jaxtrain.data.bad_records import Skips
from jaxtrain.data.read_limits import DEFAULT, ReadLimits

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


VOTE = {
    "prompt": "Hi?",
    "response_a": "y",
    "response_b": "x",
    "preferred": "b",
    "item": 1,
    "models": ["m", "n"],
}
RANKED = {
    "prompt": TALK,
    "completions": ["r", "p", "q"],
    "ranking": [2, 1, 2],
    "item": 2,
    "models": ["m", "n", "m"],
}
WRONG = {
    "no field 'item'": [VOTE | {"item": ...}, {"prompt": "Hi?"}],
    "no field 'ranking'": [RANKED | {"ranking": ...}],
    "preferred must be one of a, b, tie": [VOTE | {"preferred": one} for one in ("c", None, ["a"], {})],
    "must be texts": [VOTE | {"response_a": 5}, VOTE | {"response_b": "\ud800"}, RANKED | {"completions": ["a"]},
                      RANKED | {"completions": "abc"}, RANKED | {"completions": ["a", None, "b"]}],
    "ranking must have": [RANKED | {"ranking": one}
                          for one in ([1, 2], [1, 2, 1.5], "123", [1, 2, True], [1, 2, 10**30])],
    "models must name": [VOTE | {"models": one} for one in ("mn", ["m"], ["m", 5], [["m"], "n"], None)],
    "item must be": [VOTE | {"item": one} for one in ("1", 1.5, True, None, 1 << 70)],
    "prompt must be a text or messages": [VOTE | {"prompt": one} for one in (5, [], ["a"], {}, None)],
    "each message of prompt": [VOTE | {"prompt": [one]} for one in ({}, {"role": "user"}, {"role": 5, "content": "a"})],
    "not a JSON object but list": [[VOTE]],
}  # fmt: skip


def votes(path, rows, policy="raise", limits=DEFAULT):
    lines = [
        json.dumps({k: v for k, v in row.items() if v is not ...} if isinstance(row, dict) else row)
        for row in rows
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    skips = Skips(policy)
    return list(preferences_db.votes(path, path.parent / "cache", limits, skips)), skips


def test_votes_of_a_database_and_of_its_export_are_the_same(database, tmp_path):
    preferences_db.export(database, tmp_path / "votes.jsonl")
    read = [
        list(preferences_db.votes(path, tmp_path / "cache", ReadLimits(), Skips("raise")))
        for path in (database, tmp_path / "votes.jsonl")
    ]
    assert read[0] == read[1] and [(one.item, one.ranks) for one in read[0]] == [
        (1, [1, 2]),
        (1, [1, 1]),
        (2, [2, 1, 2]),
    ]
    assert read[0][2] == preferences_db.Vote(2, TALK, ["r", "p", "q"], [2, 1, 2], ["mr", "mp", "mq"])


@pytest.mark.parametrize(
    ("message", "bad"), [(name, one) for name, several in WRONG.items() for one in several]
)
def test_what_is_no_vote_is_refused_or_skipped_with_its_place(tmp_path, message, bad):
    path = tmp_path / "v.jsonl"
    with pytest.raises(ConfigError, match=rf"v\.jsonl:2: not a row of .*{message}.*--on_bad_record=skip"):
        votes(path, [VOTE, bad, RANKED])
    found, skips = votes(path, [VOTE, bad, RANKED], "skip")
    assert [one.ranks for one in found] == [[2, 1], [2, 1, 2]] and skips.count == 1


def test_a_vote_that_is_too_long_is_a_bad_record(tmp_path):
    found, skips = votes(
        tmp_path / "v.jsonl", [VOTE, VOTE | {"reason": "x" * 3_000}], "skip", ReadLimits(1_000)
    )
    assert len(found) == 1 and "too long: a line of 3,1" in skips.first["reason"]
