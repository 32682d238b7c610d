"""What was acknowledged must be in the store, and a client acknowledges what the server answered."""

import contextlib
import sqlite3
import threading

import pytest

from jaxtrain.apps.soak import stores
from tests.apps.annotation.web_app import filled_db, running_page

SERVE, COLLECT = stores.TARGETS


class Place:
    """The folder of an attempt."""

    def __init__(self, folder):
        self.here = folder


@pytest.fixture
def place(tmp_path):
    (tmp_path / "run").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "store.sqlite", isolation_level=None)) as db:
        db.execute("CREATE TABLE completions (id TEXT)")
        db.executemany("INSERT INTO completions VALUES (?)", [("a",), ("b",)])
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("a\nb\n", ""),
        ("a\n", ""),
        ("a\nc\n", "1 of 2 acknowledged are not in the store"),
        ("", "nothing was"),
    ],
)
def test_what_is_lost_is_counted(place, tmp_path, names, why):
    (tmp_path / "acknowledged").write_text(names)
    found = stores.lost(place, SERVE, tmp_path / "acknowledged")
    assert found.startswith(why) and bool(found) == bool(why)


def test_a_damaged_store_is_seen(place, tmp_path):
    (tmp_path / "acknowledged").write_text("a\n")
    path = tmp_path / "run" / "store.sqlite"
    path.write_bytes(b"x" * 100 + path.read_bytes()[100:])
    assert "cannot be read" in stores.lost(place, SERVE, tmp_path / "acknowledged")


def test_the_annotator_acknowledges_the_votes_that_are_stored(tmp_path):
    """The page of this process, without a command."""
    (tmp_path / "run").mkdir()
    db = filled_db(tmp_path / "run" / "store.sqlite", count=3)
    names = []
    with running_page(db) as port:
        client = threading.Thread(
            target=stores.SERVICES["collect_preferences"].client, args=(port, names.append)
        )
        client.start()
        client.join(60)
        assert not client.is_alive()
    (tmp_path / "acknowledged").write_text("".join(f"{name}\n" for name in names))
    assert len(names) == 3 and stores.lost(Place(tmp_path), COLLECT, tmp_path / "acknowledged") == ""
    (tmp_path / "acknowledged").write_text("9 nobody\n")
    assert "1 of 1" in stores.lost(Place(tmp_path), COLLECT, tmp_path / "acknowledged")
