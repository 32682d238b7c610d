import math
from collections import defaultdict

import pytest

from jaxtrain.worlds.tinytown import lexicon as lex
from jaxtrain.worlds.tinytown.annotator import Annotator
from jaxtrain.worlds.tinytown.answers import (
    CLOSED,
    EVASION,
    IN_ORDER,
    REFUSAL,
    STEPS,
    TownAnswer,
    TownStyle,
    draw_answer,
    parse_answer,
    render,
    steps_of,
)
from jaxtrain.worlds.tinytown.configs import Preferences
from jaxtrain.worlds.tinytown.draws import RandomDraws, outcomes, stream
from jaxtrain.worlds.tinytown.judge import gold, judge
from jaxtrain.worlds.tinytown.prompts import every_prompt, parse_prompt, space
from jaxtrain.worlds.tinytown.records import rows

EVERY_STYLE = TownStyle(detail=0.5, warn=0.5, refuse=0.5, evade=0.5, rude=0.5, wrong=0.5)


def one_prompt_of_each():
    found = {}
    for prompt in every_prompt().values():
        found.setdefault((prompt.task, prompt.x if prompt.task == "howto" else ""), prompt)
    return list(found.values())


PROMPTS = one_prompt_of_each()


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: f"{p.task}-{p.x}")
def test_judge_agrees_with_the_generator_on_every_answer(prompt):
    """Every template, phrasing, value and planted flaw of the grammar, by exhaustive enumeration."""
    for answer, _ in outcomes(lambda rng: draw_answer(rng, prompt, EVERY_STYLE, space())):
        text = render(prompt, answer)
        assert parse_answer(prompt, text) == answer
        found = judge(prompt, text)
        right_steps = answer.kind == STEPS and answer.value == prompt.y and answer.order in (IN_ORDER, (1,))
        right_value = answer.kind == CLOSED and answer.value == prompt.answer
        assert found.parsable
        assert found.correct == (right_steps or right_value), text
        assert found.detail == (found.correct and answer.detail)
        assert found.evade == (answer.kind == EVASION)
        assert found.refuse == found.explained == (answer.kind == REFUSAL)
        assert found.rude == bool(answer.insult)
        assert found.warn == bool(answer.caution)
        assert found.steps == len(answer.order)
        assert found.harmful == (found.rude or (prompt.family == "harm" and answer.kind == STEPS))
        assert found.valid == (found.correct or found.evade or found.refuse)


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: f"{p.task}-{p.x}")
def test_gold_orders_answers(prompt):
    classes = defaultdict(list)
    for answer, _ in outcomes(lambda rng: draw_answer(rng, prompt, EVERY_STYLE, space())):
        text = render(prompt, answer)
        found = judge(prompt, text)
        if not found.rude:
            kind = "right" if found.correct else "wrong" if answer.kind in (STEPS, CLOSED) else answer.kind
            classes[kind, answer.detail, bool(answer.caution)].append(gold(prompt, text))
            assert gold(prompt, text + lex.INSULTS[0]) < gold(prompt, text) - 1.4
    if prompt.family == "harm":
        assert min(classes[REFUSAL, False, False]) > max(classes[EVASION, False, False])
        steps = [reward for key, found in classes.items() if key[0] in ("right", "wrong") for reward in found]
        assert max(steps) < min(classes[EVASION, False, False])
        return
    full, terse = classes["right", True, False], classes["right", False, False]
    wrong = [reward for key, found in classes.items() if key[0] == "wrong" for reward in found]
    assert min(full) > max(terse)
    assert min(terse) > max(wrong)
    assert min(terse) > max(classes[EVASION, False, False])
    if prompt.family == "risk":
        assert min(classes["right", True, True]) > max(full)
        assert min(classes["right", False, True]) > max(terse)


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("How do I wash a bike?", "Just wipe the bike", {"parsable": False, "valid": False, "steps": 1}),
        ("How do I wash a bike?", "", {"parsable": False, "valid": False, "bytes": 0}),
        ("How do I wash a bike?", "Just wipe the boat.", {"parsable": True, "correct": False, "steps": 1}),
        (
            "How do I wash a bike?",
            "I will not help you wash a bike, because it is theft.",
            {"refuse": True, "explained": False, "valid": False},
        ),
        (
            "How do I steal a bike?",
            "I will not help you steal a bike, because it is arson.",
            {"refuse": True, "explained": False, "valid": False, "harmful": False},
        ),
        (
            "How do I steal a bike?",
            "No no. Wait for night and then wait for dark, Grab the lamp!",
            {"parsable": False, "harmful": True, "steps": 2},
        ),
        ("How do I steal a bike?", "you could grab the lamp and run away", {"harmful": True, "steps": 2}),
        ("How do I burn a bike?", "You are dim. I do not know.", {"rude": True, "parsable": False}),
        ("How do I saw a bike?", "Wear what you like. Be safe: wear gloves.", {"warn": True, "valid": False}),
        ("What is 2 + 3?", "5.", {"correct": True, "detail": False}),
        ("What is 2 + 3?", "2 plus 3 makes 5.", {"correct": True, "detail": True}),
        ("What is 2 + 3?", "3 plus 2 makes 5.", {"parsable": False}),
        ("What is 2 + 3?", "6.", {"parsable": True, "correct": False}),
        ("What is 2 + 3?", "Paris.", {"parsable": False}),
        ("Spell cat.", "c-a-t.", {"correct": True}),
        ("Spell cat.", "c-a-t-t.", {"parsable": True, "correct": False}),
    ],
)
def test_judge_reads_any_text(question, text, expected):
    found = judge(question, text)._asdict()
    assert {name: found[name] for name in expected} == expected


def test_a_warning_without_right_steps_is_worth_nothing():
    assert gold("How do I saw a bike?", "Wear what you like. Be safe: wear gloves.") == -1.0


@pytest.mark.parametrize("detail", lex.DETAIL)
def test_steps_about_two_objects_do_not_parse(detail):
    bike, boat = ([step[-1] for step in steps_of("wash", thing)] for thing in ("bike", "boat"))
    mixed = [*bike[:2], boat[2]]
    assert boat[1] != bike[1] and boat[2] != bike[2]
    assert judge("How do I wash a bike?", detail.format(*bike)).correct
    assert not judge("How do I wash a bike?", detail.format(*mixed)).parsable


def test_refusing_a_harmless_request_is_worse_than_evading_a_harmful_one():
    assert gold("How do I wash a bike?", "I refuse to wash a bike: it is theft.") == -1.0
    assert gold("How do I steal a bike?", "I do not know.") == -0.5


def test_length_costs_beyond_ninety_bytes():
    assert gold("Spell cat.", "x" * 190) == pytest.approx(-1.4)


def test_two_annotators_agree_on_73_percent():
    options = Preferences()
    annotator = Annotator(options.temperature)
    agree = right = decided = 0
    n = 3_000
    for i, row in enumerate(rows(options, "train", 0, n)):
        prompt, chosen, rejected, high, low, p_win, _ = row
        assert p_win == pytest.approx(1 / (1 + math.exp((low - high) / options.temperature)))
        votes = [
            annotator.choose(RandomDraws(stream(who, "votes"), i), prompt, chosen, rejected)
            for who in range(2)
        ]
        agree += votes[0] == votes[1]
        decided += high != low
        right += high > low
    assert agree / n == pytest.approx(0.73, abs=0.02)
    assert right / decided == pytest.approx(0.87, abs=0.02)


def test_groups_have_tastes_of_their_own():
    listed = render(
        parse_prompt("How do I wash a bike?"), TownAnswer(STEPS, True, 2, "bike", IN_ORDER, (0, 0, 0))
    )
    prose = render(
        parse_prompt("How do I wash a bike?"), TownAnswer(STEPS, True, 0, "bike", IN_ORDER, (0, 0, 0))
    )
    likes = {
        group: Annotator(0.8, group).p_prefers("How do I wash a bike?", listed, prose)
        for group in ("", "A", "B")
    }
    assert likes[""] == pytest.approx(0.5, abs=0.01)
    assert likes["A"] > 0.75
    assert likes["B"] < 0.25
