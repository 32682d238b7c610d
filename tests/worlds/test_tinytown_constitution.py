from collections import Counter

import pytest

from jaxtrain.worlds.tinytown.answers import TownStyle, draw_answer, parse_answer, render
from jaxtrain.worlds.tinytown.constitution import (
    PRINCIPLES,
    TARGETS,
    comparison_request,
    critique_request,
    critique_revise,
    draw_comparison,
    draw_critique,
    page,
    principle,
    violates,
)
from jaxtrain.worlds.tinytown.draws import draws, stream
from jaxtrain.worlds.tinytown.judge import gold, judge
from jaxtrain.worlds.tinytown.prompts import PROMPT_SHARES, space

ANY = TownStyle(detail=0.4, warn=0.4, refuse=0.3, evade=0.15, rude=0.3, wrong=0.4)


def answered(n):
    for rng in draws(stream(0, "constitution"), 0, n):
        prompt = PROMPT_SHARES.draw(rng, space())
        yield prompt, render(prompt, draw_answer(rng, prompt, ANY, space()))


def test_there_are_sixteen_principles_half_of_them_about_harm():
    assert len({p.id for p in PRINCIPLES}) == len({p.request for p in PRINCIPLES}) == 16
    assert len({p.comparison for p in PRINCIPLES}) == 16
    assert Counter(p.target for p in PRINCIPLES)["harm"] == 8
    assert principle("harm-3").target == "harm"
    with pytest.raises(ValueError, match="no principle 'harm-9'"):
        principle("harm-9")


@pytest.mark.parametrize("target", TARGETS)
def test_revisions_remove_the_violation_and_nothing_else(target):
    seen = Counter()
    for prompt, text in answered(2_000):
        bad = violates(prompt, text, target)
        seen[bad] += 1
        critique, revision = critique_revise(prompt, text, target)
        assert critique.startswith("Yes, ") == bad
        if not bad:
            assert revision == text
            continue
        assert not violates(prompt, revision, target)
        assert gold(prompt, revision) > gold(prompt, text) - 0.15
        before, after = parse_answer(prompt, text), parse_answer(prompt, revision)
        assert after is not None
        if target != "rude":
            assert after.insult == before.insult
        if target != "harm":
            assert not (before.caution and not after.caution)
        if target in ("rude", "risk"):
            assert after._replace(insult="", caution="") == before._replace(insult="", caution="")
        if target == "true":
            assert (after.detail, after.template) == (before.detail, before.template)
        assert critique_revise(prompt, revision, target)[1] == revision
    assert min(seen[True], seen[False]) > 150


def test_every_violation_yields_to_all_principles_together():
    for prompt, text in answered(1_000):
        for target in ("rude", "true", "help", "risk", "harm"):
            _, text = critique_revise(prompt, text, target)
        found = judge(prompt, text)
        assert not found.harmful
        assert found.detail or (prompt.family == "harm" and found.valid)
        assert found.warn or prompt.family != "risk"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("How do I steal a bike?", "grab the bike. You are dim. run away!"),
        ("How do I saw a bike?", "saw it. You are dim. You are dim."),
        ("How do I wash a bike?", ""),
        ("What is 2 + 3?", "five, of course. Read a book, fool."),
        ("Spell cat.", "cat cat cat You are What a silly question. dim."),
    ],
)
def test_revisions_mend_text_of_no_grammar(question, text, target):
    _, revision = critique_revise(question, text, target)
    assert not violates(question, revision, target)


def test_drawn_critiques_are_the_oracle_s():
    n, faulty = 3_000, 0
    for rng in draws(stream(1, "constitution"), 0, n):
        made = draw_critique(rng, space())
        target = made.principle.target
        assert made.faulty == violates(made.prompt, made.response, target)
        assert (made.critique, made.revision) == critique_revise(made.prompt, made.response, target)
        faulty += made.faulty
    assert 0.6 <= faulty / n <= 0.7


def test_drawn_comparisons_name_the_answer_that_does_not_violate():
    letters = Counter()
    for rng in draws(stream(2, "constitution"), 0, 2_000):
        made = draw_comparison(rng, space())
        good, bad = (made.first, made.second) if made.best == "A" else (made.second, made.first)
        assert violates(made.prompt, bad, made.principle.target)
        assert not violates(made.prompt, good, made.principle.target)
        letters[made.best] += 1
    assert letters["A"] / 2_000 == pytest.approx(0.5, abs=0.04)


def test_pages_read_as_the_model_sees_them():
    assert page("Spell cat.", "c.", "Is it wrong?", "Yes, it has a mistake.", "c-a-t.") == (
        "Human: Spell cat.\nAI: c.\nCritic: Is it wrong? Yes, it has a mistake.\nRevision: c-a-t."
    )
    assert critique_request("Spell cat.", "c.", "Is it wrong?", "hh") == (
        "\n\nHuman: Spell cat.\n\nAssistant: c.\nCritic: Is it wrong?"
    )
    assert comparison_request("Spell cat.", "c.", "c-a-t.", "Which answer is right?") == (
        "Human: Spell cat.\nWhich answer is right?\n(A) c.\n(B) c-a-t.\nThe answer is: ("
    )
