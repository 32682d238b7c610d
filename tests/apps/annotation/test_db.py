"""The annotation database: which item an annotator gets next, no vote twice, no vote lost."""

import contextlib
import sqlite3
import threading

import pytest

from jaxtrain.apps.annotation.db import AnnotationDB, AnnotationProgress, ItemRow
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.config import ConfigError
from jaxtrain.data import completions_db, preferences_db
from tests.apps.annotation.web_app import exported_rows, filled_db


def give_vote(db, annotator, places=(1, 2), kind=preferences_db.CHOSEN, reason=""):
    item = db.next_item(annotator)
    assert db.add_vote(annotator, item.number, kind, places, reason, item.shown)
    return item


def test_the_export_has_the_responses_as_shown_and_the_votes(tmp_path):
    db = filled_db(tmp_path / "b", count=5)
    items = [
        give_vote(db, "ann", (1, 2), reason="clearer"),
        give_vote(db, "ann", (2, 1)),
        give_vote(db, "ann", (1, 1)),
        give_vote(db, "ann", (1, 1), preferences_db.BOTH_BAD),
        give_vote(db, "ann", (), preferences_db.SKIP),
    ]
    assert db.next_item("ann") is None and db.progress("ann") == AnnotationProgress(5, 4, 4, 1)
    rows = exported_rows(db)
    assert [row["preferred"] for row in rows] == ["a", "b", "tie", "tie"]
    assert [row.get("both_bad", False) for row in rows] == [False, False, False, True]
    assert rows[0]["reason"] == "clearer" and rows[0]["annotator"] == "ann"
    for item, row in zip(items, rows, strict=False):
        assert [row["response_a"], row["response_b"]] == item.responses
        assert row["models"] == [f"m{i}" for i in item.shown] and row["prompt"].startswith(
            f"prompt {item.number}"
        )


def test_the_order_is_random_by_prompt_and_annotator_and_stable(tmp_path):
    db = filled_db(tmp_path / "b", count=60)
    orders = {annotator: [db.item(n, annotator).shown for n in range(60)] for annotator in ("ann", "bob")}
    assert orders["ann"] == [db.item(n, "ann").shown for n in range(60)]
    assert orders["ann"] != orders["bob"] and 15 < orders["ann"].count([0, 1]) < 45


def test_a_ranking_is_of_the_responses_not_of_their_places(tmp_path):
    db = filled_db(tmp_path / "b", count=1, responses=4)
    item = give_vote(db, "ann", (4, 1, 1, 3))
    (row,) = exported_rows(db)
    assert row["completions"] == item.responses and row["ranking"] == [3, 1, 1, 2], "without holes"
    better = db.labels()["ann"]
    i, j = sorted(item.shown[1:3])
    assert better[0, i, j] == "tie" and list(better.values()).count("tie") == 1


def test_concurrent_annotators_get_different_prompts_until_a_lease_ends(tmp_path):
    db = filled_db(tmp_path / "b", count=8)
    numbers, gate = [], threading.Barrier(8)

    def next_item(annotator):
        gate.wait()
        numbers.append(AnnotationDB(tmp_path / "b", 60).next_item(annotator).number)

    threads = [threading.Thread(target=next_item, args=(f"a{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(8)) and db.next_item("late") is None
    assert AnnotationDB(tmp_path / "b", 0).next_item("late").number == 0, "the lease of the first has ended"
    assert db.next_item("a0").number in numbers, "and its annotator may still vote"


def test_both_votes_count_where_two_annotators_vote_at_once(tmp_path):
    db = filled_db(tmp_path / "b", count=1, lease=0)
    first, second = db.next_item("ann"), db.next_item("bob")
    assert first.number == second.number
    for annotator, item in (("ann", first), ("bob", second)):
        assert db.add_vote(annotator, 0, preferences_db.CHOSEN, (1, 2), "", item.shown)
    assert len(exported_rows(db)) == 2 and db.progress("ann") == AnnotationProgress(1, 1, 1, 0)
    assert not db.add_vote("ann", 0, preferences_db.CHOSEN, (2, 1), "", first.shown), (
        "a second vote of an annotator does not count"
    )
    assert exported_rows(db)[0]["preferred"] == "a"


def test_a_second_annotator_gets_the_items_that_want_two(tmp_path):
    db = filled_db(tmp_path / "b", count=2, wanted=2)
    responses = [{"text": text, "model": ""} for text in "ab"]
    db.add_items([ItemRow(2, [{"role": "user", "content": "x"}], responses, "", 1)])
    for _ in range(3):
        give_vote(db, "ann")
    assert db.next_item("ann") is None and db.progress().given == 3
    assert [give_vote(db, "bob").number for _ in range(2)] == [0, 1] and db.next_item("bob") is None
    assert db.progress("bob") == AnnotationProgress(5, 5, 2, 0)
    assert set(db.labels()) == {"ann", "bob"}


def test_undo_shows_the_prompt_again_and_leaves_the_vote_in_the_file(tmp_path):
    db = filled_db(tmp_path / "b")
    assert not db.undo("ann")
    first, _ = give_vote(db, "ann", reason="because"), give_vote(db, "ann", (), preferences_db.SKIP)
    assert db.undo("ann") and db.undo("ann")
    again = db.next_item("ann")
    assert again == first._replace(reason="because") and exported_rows(db) == []
    give_vote(db, "ann", (2, 1))
    assert [row["preferred"] for row in exported_rows(db)] == ["b"]
    with contextlib.closing(sqlite3.connect(db.path)) as db:
        assert db.execute("SELECT count(*) FROM votes").fetchone() == (3,)


def test_unskip_shows_skipped_items_again(tmp_path):
    db = filled_db(tmp_path / "b", count=2)
    give_vote(db, "ann", (), preferences_db.SKIP)
    give_vote(db, "ann")
    assert db.next_item("ann") is None and db.unskip("ann") == 1 and db.next_item("ann").number == 0


def test_files_of_another_kind_are_refused(tmp_path):
    CompletionStore(tmp_path / "completions").close()
    with pytest.raises(ConfigError, match=r"not a store of ./launch/run collect_preferences"):
        AnnotationDB(tmp_path / "completions", 1)
    filled_db(tmp_path / "votes")
    with pytest.raises(ConfigError, match=r"not a store of ./launch/run serve"):
        completions_db.connect(tmp_path / "votes")
    (tmp_path / "text").write_text("nothing " * 99)
    with pytest.raises(ConfigError, match="cannot be read as a SQLite file"):
        AnnotationDB(tmp_path / "text", 1)
    with pytest.raises(ConfigError, match="cannot be written"):
        AnnotationDB(tmp_path / "text" / "under", 1)
