"""The factors: each number by hand, and that each moves with what it stands for."""

import random

import pytest

from jaxtrain import worlds
from jaxtrain.apps.filters import corpus_stats
from jaxtrain.measures.diversity import self_bleu
from tests.apps.filters.pages import GOOD
from tests.apps.filters.world import labelled


def test_distinct_ngrams_by_hand():
    found = corpus_stats.diversity(["a b a b", "a b c"])
    assert found["distinct_1"] == pytest.approx(3 / 7)
    assert found["distinct_2"] == pytest.approx(3 / 5)  # ab ba ab, ab bc
    assert found["distinct_3"] == pytest.approx(3 / 3)


def test_self_bleu_is_that_of_the_measures_on_the_first_texts():
    texts = [f"text {i % 7} of {i} words about {i % 3}" for i in range(150)]
    assert corpus_stats.diversity(texts)["self_bleu"] == self_bleu(texts[:100])
    assert corpus_stats.diversity(["a b c d e"] * 3)["self_bleu"] == pytest.approx(1)
    for texts in (["a"], ["a", " "], []):
        assert corpus_stats.diversity(texts)["self_bleu"] is None


def test_distinct_ngrams_are_of_the_first_ones(monkeypatch):
    texts = ["a b c", "a b c d", "e f g h i"]
    monkeypatch.setattr(
        corpus_stats, "_MAX_NGRAMS", 4
    )  # the second text passes it for words, the third for pairs
    found = corpus_stats.diversity(texts)
    assert found["distinct_1"] == 4 / 7 and found["distinct_2"] == 3 / 5 and found["distinct_3"] == 5 / 6
    assert corpus_stats.diversity(["a b"])["distinct_3"] is None


def test_the_spread_falls_where_documents_are_alike():
    rng = random.Random(0)
    words = [f"w{i}" for i in range(3000)]
    wide = [" ".join(rng.sample(words, 30)) for _ in range(300)]
    narrow = [" ".join([*words[:25], *rng.sample(words, 5)]) for _ in range(300)]
    one = corpus_stats.spread(["a b"] * 50)
    assert one["distance"] == pytest.approx(0, abs=1e-5) and one["clusters"] == pytest.approx(1)
    assert corpus_stats.spread(wide)["distance"] > 0.9 > 0.4 > corpus_stats.spread(narrow)["distance"]
    assert corpus_stats.spread(["a"]) == {"distance": None, "clusters": None}
    groups = [f"g{i % 4}a g{i % 4}b g{i % 4}c" for i in range(200)]
    assert corpus_stats.spread(groups)["clusters"] == pytest.approx(4, abs=0.01)


def test_accuracy_by_the_worlds_key_and_by_sums():
    assert corpus_stats.sums("2 + 3 is 5. 4 plus 4 makes 9. 1 + 1 = 2, and 10.5 + 1 = 3") == (2, 1)
    from jaxtrain.worlds.tinytown import lexicon as lex

    answer_key = corpus_stats.world_answer_key(worlds.get())
    city = lex.FACTS["Ana", "city"]
    wrong = next(c for c in lex.VALUES["city"] if c != city)
    text = f"Ana lives in {city}. The home of Ana is {wrong}. You spell cat c-a-t. 3 + 4 is 8."
    assert answer_key(text) == (2, 2)
    asked = "Q: Where does Ana live?\nA: "
    assert answer_key(f"{asked}{city}.") == (1, 0) and answer_key(f"{asked}{wrong}.") == (0, 1)
    assert answer_key(f"{asked}I do not know.") == (0, 0) == answer_key("Q: How do I steal a bike?\nA: No.")
    pairs = [("Where does Ana live?", f"{city}."), ("What is 2 + 2?", "5.")]
    assert corpus_stats.accuracy(["..."], pairs, answer_key)["right"] == 0.5
    prose = [one.text for one in labelled() if one.kind == "prose" and not one.defect]
    found = corpus_stats.accuracy(prose, answer_key=answer_key)
    assert found["right"] == 1 and found["checked"] > 1000 and found["key"] == "known answers"
    assert corpus_stats.accuracy(prose)["key"] == "sums"


def test_consistency_by_hand():
    pairs = [("Q?", "yes"), ("q? ", "YES"), ("Q?", "no"), ("other", "1")]
    found = corpus_stats.accuracy(["Q: Why?\nA: Because.", "Q: Why?\nA: because."], pairs)
    # Of three answers one pair of three agrees; of two the only one.
    assert found["questions_asked_again"] == 2 and found["consistent"] == pytest.approx((1 / 3 + 1) / 2)
    assert corpus_stats.accuracy(["no question"])["consistent"] is None


def test_recency_by_hand():
    found = corpus_stats.recency(
        ["In 1999 and 2004.", "Since 1850, $1900 or 1,950 or 1999.5 were paid", "no year", "12024"]
    )
    assert found == {
        "dated": 0.5, "median_year": 1927, "newest_year": 2004, "decades": {"1850": 1, "2000": 1}
    }  # fmt: skip
    assert corpus_stats.recency(["none"])["newest_year"] is None


def test_formatting_and_safety():
    found = corpus_stats.formatting(
        ["A whole one.", "cut in the mid", "(open", "```\ncode\n```", "- a\n- b", "Ã©tÃ©!"]
    )
    assert found["complete"] == pytest.approx(3 / 6) and found["balanced"] == pytest.approx(5 / 6)
    assert found["clean_letters"] == pytest.approx(5 / 6) and found["lists"] == found[
        "code"
    ] == pytest.approx(1 / 6)
    safe = corpus_stats.safety([GOOD, "Mail bob@example.com.", "How do I make a pipe bomb?"])
    assert safe["harm"] == safe["personal_data"] == pytest.approx(1 / 3) and safe["spam"] == 0


def test_nothing_is_guessed_of_nothing():
    found = corpus_stats.quality_factors([])
    assert set(found) == {"diversity", "accuracy", "recency", "formatting", "safety"}
    assert found["diversity"]["self_bleu"] is None and found["safety"]["harm"] is None
    assert found["accuracy"]["right"] is None and found["recency"]["dated"] is None


def test_a_sample_is_of_all():
    chosen = corpus_stats.reservoir_sample(map(str, range(10_000)), 500)
    assert len(chosen) == 500 and 4_000 < sum(map(int, chosen)) / 500 < 6_000
    assert chosen == corpus_stats.reservoir_sample(map(str, range(10_000)), 500)
    assert corpus_stats.reservoir_sample("abc", 5) == ["a", "b", "c"]
