"""The store of people's answers: who is asked what, nothing twice, nothing lost."""

import contextlib
import sqlite3
import threading

import pytest

from jaxtrain.apps.annotation.db import AnnotationDB, AnnotationProgress
from jaxtrain.apps.serve.store import CompletionStore
from jaxtrain.config import ConfigError
from jaxtrain.data import completions_db as completions
from jaxtrain.data import preferences_db
from tests.apps.annotation.web_app import filled, rows


def give(ballots, who, places=(1, 2), kind=preferences_db.CHOSEN, reason=""):
    item = ballots.next(who)
    assert ballots.vote(who, item.number, kind, places, reason, item.shown)
    return item


def test_the_export_is_what_was_shown_and_said(tmp_path):
    ballots = filled(tmp_path / "b", count=5)
    items = [
        give(ballots, "ann", (1, 2), reason="clearer"),
        give(ballots, "ann", (2, 1)),
        give(ballots, "ann", (1, 1)),
        give(ballots, "ann", (1, 1), preferences_db.BOTH_BAD),
        give(ballots, "ann", (), preferences_db.SKIP),
    ]
    assert ballots.next("ann") is None and ballots.progress("ann") == AnnotationProgress(5, 4, 4, 1)
    found = rows(ballots)
    assert [row["preferred"] for row in found] == ["a", "b", "tie", "tie"]
    assert [row.get("both_bad", False) for row in found] == [False, False, False, True]
    assert found[0]["reason"] == "clearer" and found[0]["annotator"] == "ann"
    for item, row in zip(items, found, strict=False):
        assert [row["response_a"], row["response_b"]] == item.responses
        assert row["models"] == [f"m{i}" for i in item.shown] and row["prompt"].startswith(
            f"prompt {item.number}"
        )


def test_order_is_random_over_prompts_and_people_and_stays(tmp_path):
    ballots = filled(tmp_path / "b", count=60)
    orders = {who: [ballots.item(n, who).shown for n in range(60)] for who in ("ann", "bob")}
    assert orders["ann"] == [ballots.item(n, "ann").shown for n in range(60)]
    assert orders["ann"] != orders["bob"] and 15 < orders["ann"].count([0, 1]) < 45


def test_a_ranking_is_of_the_responses_not_of_their_places(tmp_path):
    ballots = filled(tmp_path / "b", count=1, responses=4)
    item = give(ballots, "ann", (4, 1, 1, 3))
    (row,) = rows(ballots)
    assert row["completions"] == item.responses and row["ranking"] == [3, 1, 1, 2], "without holes"
    better = ballots.labels()["ann"]
    i, j = sorted(item.shown[1:3])
    assert better[0, i, j] == "tie" and list(better.values()).count("tie") == 1


def test_two_who_ask_at_once_get_different_prompts_until_a_lease_ends(tmp_path):
    ballots = filled(tmp_path / "b", count=8)
    got, gate = [], threading.Barrier(8)

    def ask(who):
        gate.wait()
        got.append(AnnotationDB(tmp_path / "b", 60).next(who).number)

    threads = [threading.Thread(target=ask, args=(f"a{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(8)) and ballots.next("late") is None
    assert AnnotationDB(tmp_path / "b", 0).next("late").number == 0, "whoever looked too long gives way"
    assert ballots.next("a0").number in got, "but may still answer"


def test_both_answers_count_where_two_gave_one_at_once(tmp_path):
    ballots = filled(tmp_path / "b", count=1, lease=0)
    first, second = ballots.next("ann"), ballots.next("bob")
    assert first.number == second.number
    for who, item in (("ann", first), ("bob", second)):
        assert ballots.vote(who, 0, preferences_db.CHOSEN, (1, 2), "", item.shown)
    assert len(rows(ballots)) == 2 and ballots.progress("ann") == AnnotationProgress(1, 1, 1, 0)
    assert not ballots.vote("ann", 0, preferences_db.CHOSEN, (2, 1), "", first.shown), (
        "a second answer of one is none"
    )
    assert rows(ballots)[0]["preferred"] == "a"


def test_a_second_annotator_is_asked_what_is_wanted_twice(tmp_path):
    ballots = filled(tmp_path / "b", count=2, wanted=2)
    written = [{"text": text, "model": ""} for text in "ab"]
    ballots.add([(2, [{"role": "user", "content": "x"}], written, "", 1)])
    for _ in range(3):
        give(ballots, "ann")
    assert ballots.next("ann") is None and ballots.progress().given == 3
    assert [give(ballots, "bob").number for _ in range(2)] == [0, 1] and ballots.next("bob") is None
    assert ballots.progress("bob") == AnnotationProgress(5, 5, 2, 0)
    assert set(ballots.labels()) == {"ann", "bob"}


def test_undo_shows_the_prompt_again_and_keeps_the_answer_in_the_file(tmp_path):
    ballots = filled(tmp_path / "b")
    assert not ballots.undo("ann")
    first, _ = give(ballots, "ann", reason="because"), give(ballots, "ann", (), preferences_db.SKIP)
    assert ballots.undo("ann") and ballots.undo("ann")
    again = ballots.next("ann")
    assert again == first._replace(reason="because") and rows(ballots) == []
    give(ballots, "ann", (2, 1))
    assert [row["preferred"] for row in rows(ballots)] == ["b"]
    with contextlib.closing(sqlite3.connect(ballots.path)) as db:
        assert db.execute("SELECT count(*) FROM votes").fetchone() == (3,)


def test_what_was_skipped_comes_again(tmp_path):
    ballots = filled(tmp_path / "b", count=2)
    give(ballots, "ann", (), preferences_db.SKIP)
    give(ballots, "ann")
    assert ballots.next("ann") is None and ballots.unskip("ann") == 1 and ballots.next("ann").number == 0


def test_the_files_of_others_are_refused(tmp_path):
    CompletionStore(tmp_path / "completions").close()
    with pytest.raises(ConfigError, match=r"not a store of ./launch/run collect_preferences"):
        AnnotationDB(tmp_path / "completions", 1)
    filled(tmp_path / "votes")
    with pytest.raises(ConfigError, match=r"not a store of ./launch/run serve"):
        completions.connect(tmp_path / "votes")
    (tmp_path / "text").write_text("nothing " * 99)
    with pytest.raises(ConfigError, match="cannot be read as a SQLite file"):
        AnnotationDB(tmp_path / "text", 1)
    with pytest.raises(ConfigError, match="cannot be written"):
        AnnotationDB(tmp_path / "text" / "under", 1)
