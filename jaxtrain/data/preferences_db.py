"""The database of human preferences, which ./launch/run collect_preferences writes, as training reads it.

A row is a vote. Of two responses it is `prompt`, `response_a`, `response_b`, `preferred` (a, b or tie) and `reason`, in
the order in which they were shown; of more it is `prompt`, `completions`, `ranking` (1 is the best) and `reason`. With
them are `annotator`, `item`, `models` (of each response), and `both_bad` where a tie is because none is good.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from jaxtrain.data import completions_db, file_records
from jaxtrain.data.bad_records import Skips, is_unicode
from jaxtrain.data.read_limits import ReadLimits
from jaxtrain.files import atomic, cache, sqlite

APPLICATION = 0x6A747076  # SQLite's application_id of our files
SCHEMA = 1  # user_version
WRITTEN_BY = "./launch/run collect_preferences"
BOTH_BAD, SKIP, CHOSEN = "both_bad", "skip", "chosen"  # kinds of votes; training does not read a skip

_RANKS = {"a": [1, 2], "b": [2, 1], "tie": [1, 1]}  # by what is preferred

_VOTES = """
SELECT number, prompt, responses, annotator, kind, shown, ranking, reason
FROM votes JOIN items ON items.number = votes.item
WHERE votes.undone IS NULL AND votes.kind != 'skip' ORDER BY votes.id
"""


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection to a database of votes. Raises ConfigError for any other file."""
    return completions_db.connect(path, (APPLICATION, SCHEMA), WRITTEN_BY)


def rows(connection: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """The votes as records that training reads, oldest first."""
    for number, prompt, responses, annotator, kind, shown, ranking, reason in connection.execute(_VOTES):
        order, ranks, given = json.loads(shown), json.loads(ranking), json.loads(responses)
        texts, models = [given[i]["text"] for i in order], [given[i]["model"] for i in order]
        ranks = [ranks[i] for i in order]
        row = {"prompt": prompt_field(json.loads(prompt))}
        if len(texts) == 2:
            a, b = ranks
            preferred = "tie" if a == b else "a" if a < b else "b"
            row |= {"response_a": texts[0], "response_b": texts[1], "preferred": preferred}
        else:
            row |= {"completions": texts, "ranking": ranks}
        row |= {"reason": reason, "annotator": annotator, "item": number, "models": models}
        yield row | ({"both_bad": True} if kind == BOTH_BAD else {})


class Vote(NamedTuple):
    """A vote on the completions of a prompt; `ranks` are from 1, the best, and equal in a tie."""

    item: int
    prompt: str | list[dict[str, Any]]  # a user's turn, or messages
    texts: list[str]
    ranks: list[int]
    models: list[str]


def votes(path: Path, cache_dir: Path, limits: ReadLimits, skips: Skips) -> Iterator[Vote]:
    """The votes of a database or of its export; what is none is a bad record.

    Raises ConfigError, naming file and line, where bad records are refused.
    """
    notes = file_records.ReadNotes()
    for record in file_records.records(as_lines(path, cache_dir), notes, limits=limits):
        text, wrong = ("", record.wrong) if record.wrong else file_records.parse(record.text, {}, notes)
        row = json.loads(text) if text else {}
        if wrong := wrong or _wrong_vote(row):
            skips.bad(f"{path}{record.place}", f"not a row of {WRITTEN_BY} ({wrong})", record.text)
            continue
        texts = row["completions"] if "completions" in row else [row["response_a"], row["response_b"]]
        ranks = row["ranking"] if "completions" in row else _RANKS[row["preferred"]]
        yield Vote(row["item"], row["prompt"], texts, ranks, row["models"])


def _wrong_vote(row: dict[str, Any]) -> str:
    """What is wrong with a vote; an empty string where nothing is."""
    several = "completions" in row
    named = ("completions", "ranking") if several else ("response_a", "response_b", "preferred")
    if missing := [name for name in ("prompt", "item", "models", *named) if name not in row]:
        return f"no field {missing[0]!r}"
    texts = row["completions"] if several else [row["response_a"], row["response_b"]]
    if not _are(texts, str) or len(texts) < 2:
        return f"{' and '.join(named[: 1 if several else 2])} must be texts, two or more"
    if not several and row["preferred"] not in list(_RANKS):
        return f"preferred must be one of {', '.join(_RANKS)}"
    if several and not (
        _are(row["ranking"], int) and len(row["ranking"]) == len(texts) and min(row["ranking"]) == 1
    ):
        return "ranking must have a whole number for each completion, 1 for the best"
    if not _are(row["models"], str) or len(row["models"]) != len(texts):
        return "models must name that of each completion"
    if not _are([row["item"]], int):
        return "item must be a whole number"
    return _wrong_prompt(row["prompt"])


def _wrong_prompt(prompt: Any) -> str:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        return "prompt must be a text or messages"
    if not _are([one.get(name) for one in messages for name in ("role", "content")], str):
        return "each message of prompt must have a role and a content, which are texts"
    return ""


def _are(values: Any, kind: type) -> bool:
    """Whether it is a list of values of a kind; texts are such that UTF-8 has them, and whole numbers of 64 bits."""
    if not isinstance(values, list) or not all(type(one) is kind for one in values):
        return False
    return all(is_unicode(one) if kind is str else abs(one) < 1 << 63 for one in values)


def prompt_field(messages: list[dict[str, Any]]) -> Any:
    """A prompt as records have it: its text where it is a single turn of a user, else messages."""
    single = len(messages) == 1 and messages[0]["role"] == "user"
    return messages[0]["content"] if single else messages


def as_lines(path: Path, cache_dir: Path) -> Path:
    """The path of a JSON-lines file with a database's votes of now; `path` itself where it is no database."""
    if not completions_db.is_database(path):
        return path
    with sqlite.reading(path), closing(connect(path)) as connection:
        text = "".join(lines(connection))
    state = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()

    def fill(work: Path) -> None:
        (work / "votes.jsonl").write_text(text, encoding="utf-8")

    return cache.build(cache_dir / "votes" / state, fill) / "votes.jsonl"


def lines(connection: sqlite3.Connection) -> Iterator[str]:
    """The votes as JSON lines."""
    return map(atomic.json_line, rows(connection))


def export(path: Path, out: Path) -> int:
    """Writes the votes as JSON lines, atomically; returns their number."""
    with sqlite.reading(path), closing(connect(path)) as connection, atomic.replacing(out, "w") as file:
        count = sum(1 for line in lines(connection) if file.write(line))
    return count
