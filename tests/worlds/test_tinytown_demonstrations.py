"""Demonstrations of tasks: patient players win, the others seldom, and none shows a sum that an episode asks for."""

import itertools
import json
import re

import pytest

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.configs import resolve
from jaxtrain.worlds.tinytown.demonstrations import PLAYERS, fits, halving
from jaxtrain.worlds.tinytown.draws import RandomDraws, stream
from jaxtrain.worlds.tinytown.records import named_rows
from jaxtrain.worlds.tinytown.tasks import CalculatorTask

MANY = 300


def episodes(task, patient):
    options = resolve("demonstrations", {"task": task, "patient": patient})
    for row in itertools.islice(named_rows("demonstrations", options, "train"), MANY):
        turns = json.loads(row["messages"])
        assert row["task"] == task and turns[-1]["role"] == "assistant"
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        yield [turn["content"] for turn in turns]


def searched(turns):
    """Whether a looked-up fact is in the answer."""
    _, call, found, answer = turns
    value = answer.rstrip(".").split()[-1]
    return call.startswith("search(") and re.search(rf"\b{value}\.", found) is not None


def calculated(turns):
    """Whether the answer has the sum, by the tool where it was called."""
    a, b = map(int, re.findall(r"\d+", turns[0])[:2])
    assert len(turns) == 2 or turns[1:3] == [f"calculator({a}+{b})", str(a + b)]
    return turns[-1].rstrip(".").split()[-1] == str(a + b)


def guessed(turns):
    """Whether the answers leave one person, who is named."""
    left = list(lex.PEOPLE)
    for asked, answer in zip(turns[1:-1:2], turns[2:-1:2], strict=True):
        values = asked.rstrip("?").split(" or ")
        left = [person for person in left if fits(person, values) == (answer == "Yes.")]
    assert turns[-1].rstrip(".") in left, "a guess fits what was answered"
    return len(left) == 1


@pytest.mark.parametrize(
    ("task", "right"), [("search", searched), ("calculator", calculated), ("twenty_questions", guessed)]
)
def test_patient_players_win_and_the_others_seldom(task, right):
    assert all(map(right, episodes(task, 1)))
    hasty = list(episodes(task, 0))
    if task == "search":
        assert {len(turns) for turns in hasty} == {2}, "they look nothing up"
    else:
        assert sum(map(right, hasty)) < 0.1 * MANY
    lengths = [len(turns) for turns in episodes(task, 0.25)]
    assert min(lengths) == 2 < max(lengths)


def test_no_demonstration_has_a_sum_that_an_episode_asks_for():
    shown = {tuple(re.findall(r"\d+", turns[0])[:2]) for turns in episodes("calculator", 0)}
    tasks = [CalculatorTask(seed) for seed in range(MANY)]
    assert len(shown) > 100 and not shown & {(str(task.a), str(task.b)) for task in tasks}


def test_a_question_halves_who_is_left():
    rng = RandomDraws(stream(0, "test"), 0)
    for people in (lex.PEOPLE, lex.PEOPLE[:5], lex.PEOPLE[3:5]):
        inside = sum(fits(person, halving(rng, people)) for person in people)
        assert abs(2 * inside - len(people)) <= 2 and 0 < inside < len(people)


def test_all_tasks_are_drawn_where_none_is_named():
    rows = itertools.islice(named_rows("demonstrations", resolve("demonstrations"), "test"), 60)
    assert {row["task"] for row in rows} == {*PLAYERS}
