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
from typing import Any

from jaxtrain.data import completions_db
from jaxtrain.files import atomic, cache, sqlite

APPLICATION = 0x6A747076  # SQLite's application_id of our files
SCHEMA = 1  # user_version
WRITTEN_BY = "./launch/run collect_preferences"
BOTH_BAD, SKIP, CHOSEN = "both_bad", "skip", "chosen"  # kinds of votes; training does not read a skip

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
