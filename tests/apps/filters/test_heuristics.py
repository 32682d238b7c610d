"""The rules of Gopher, C4 and FineWeb: values by hand, the verdicts of a well-known implementation, short documents."""

import pytest

from jaxtrain.apps.filters import heuristics, repetition
from jaxtrain.apps.filters.heuristics import HeuristicsFilter
from jaxtrain.apps.filters.repetition import RepetitionFilter
from jaxtrain.config import ConfigError
from tests.apps.filters.pages import GOOD, PAGES, VERDICTS

EVERY = heuristics.check(HeuristicsFilter(rules_from=0))
REPEATS = repetition.check(RepetitionFilter(repetition_from=0))


def rules(check, text):
    return {one.rule: one.score for one in check(text)}


@pytest.mark.parametrize("name", PAGES)
def test_the_verdicts_are_those_of_datatrove(name):
    found = [*EVERY(PAGES[name]), *REPEATS(PAGES[name])]
    families = [rule.rule.partition("_")[0] for rule in EVERY(PAGES[name])]
    mine = ["gopher" in families, bool(REPEATS(PAGES[name])), "c4" in families, "fineweb" in families]
    assert mine == [bool(verdict) for verdict in VERDICTS[name]], found


def test_every_rule_of_datatrove_that_the_pages_are_for_is_met_by_one():
    met = {verdict for row in VERDICTS.values() for verdict in row}
    assert len(met) >= 14 and {"lorem_ipsum", "dup_para_frac", "line_punct_ratio", "gopher_short_doc"} <= met


def test_values_by_hand():
    text = "# one two\nthree ...\n\nfour 55 !!!"
    found = rules(heuristics.check(HeuristicsFilter(rules_from=0, min_words=6, min_sentences=9)), text)
    assert found["gopher_min_words"] == 5  # one two three four 55: marks alone are no words
    assert found["gopher_symbols"] == pytest.approx(1 / 5)
    assert found["gopher_ellipses"] == pytest.approx(1 / 3)  # of three lines that are not blank
    assert found["gopher_alphabetic"] == pytest.approx(4 / 8)  # of all eight words
    assert found["gopher_stop_words"] == 0 and found["fineweb_short_lines"] == 1
    assert found["fineweb_newlines"] == pytest.approx(3 / 8)
    assert "gopher_word_length" not in found  # (3 + 3 + 5 + 4 + 2) / 5 = 3.4


def test_a_short_document_is_no_fault():
    dialog = "Human: How do I wash a bike?\nAI: Just wipe the bike."
    assert rules(EVERY, dialog) and not heuristics.check(HeuristicsFilter())(dialog)
    assert not repetition.check(RepetitionFilter())(dialog) and not EVERY("")


def test_lines_of_one_width_are_paragraphs():
    paragraph = (
        "The river rose in the night, and by the morning all of\nthe lower fields were under a brown water that\n"
        "carried hay, planks and a door. We had never seen such"
    )
    text = "\n\n".join(f"{paragraph}\na river. It was the year {1900 + i}." for i in range(5))
    assert "fineweb_punctuated" not in rules(EVERY, text)
    assert len(heuristics._lines(text)) == 5 and len(heuristics._lines(GOOD)) == 4


def test_each_rule_has_its_flag():
    off = {
        "min_words": 0, "max_words": 0, "min_word_length": 0.0, "max_word_length": 0.0, "max_symbols": 1.0,
        "max_bullets": 1.0, "max_ellipses": 1.0, "min_alphabetic": 0.0, "min_stop_words": 0, "min_sentences": 0,
        "lorem_ipsum": False, "min_punctuated": 0.0, "max_short_lines": 1.0, "max_repeated_lines": 1.0,
        "max_newlines": 1.0,
    }  # fmt: skip
    check = heuristics.check(HeuristicsFilter(rules_from=0, **off))
    repeats = repetition.check(
        RepetitionFilter(
            repetition_from=0, max_line_repeats=1.0, max_line_repeat_chars=1.0, repeated_ngrams=0.0
        )
    )
    assert not any(check(text) or repeats(text) for text in PAGES.values())
    assert (
        rules(heuristics.check(HeuristicsFilter(rules_from=0, curly_bracket=True)), "{" + GOOD)[
            "c4_curly_bracket"
        ]
        == 1
    )
    with pytest.raises(ConfigError, match="--max_bullets"):
        HeuristicsFilter(max_bullets=2.0)
    with pytest.raises(ConfigError, match="--min_words"):
        HeuristicsFilter(min_words=9, max_words=3)
