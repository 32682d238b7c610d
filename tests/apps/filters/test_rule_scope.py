"""Rules that were made for English prose do not drop other languages, code, tables or verse, and say so."""

import pytest

from jaxtrain.apps.filters import gibberish, harm, heuristics, repetition, rule_scope, spam
from tests.apps.filters import filtering
from tests.apps.filters.languages import TEXTS
from tests.apps.filters.pages import GOOD, PAGES

CHECKS = (
    heuristics.check(heuristics.HeuristicsFilter(rules_from=0, min_words=40)),
    repetition.check(repetition.RepetitionFilter(repetition_from=0)),
    gibberish.check(gibberish.GibberishFilter()),
    harm.check(harm.HarmFilter()),
    spam.check(spam.SpamFilter()),
)


@pytest.mark.parametrize("name", TEXTS)
def test_good_texts_pass_every_rule(name):
    found = {one.rule for check in CHECKS for one in check(TEXTS[name])}
    assert not found


def test_the_rules_that_did_not_act_are_named():
    found = CHECKS[0](TEXTS["ko"])
    assert ("gopher_stop_words", "no words for language ko") in found.unfit
    assert ("gopher_word_length", "no spaces between words") in CHECKS[0](TEXTS["zh"]).unfit
    assert {why for _, why in CHECKS[0](TEXTS["code"]).unfit} == {"code"}
    assert {why for _, why in CHECKS[1](TEXTS["verse"]).unfit} == {"verse"}


def test_a_language_is_judged_by_its_own_words():
    rules = {
        one.rule
        for one in heuristics.check(heuristics.HeuristicsFilter(rules_from=0, min_stop_words=40))(TEXTS["de"])
    }
    assert "gopher_stop_words" in rules, "fewer than 40 of them"
    assert not CHECKS[0](TEXTS["de"])


def test_junk_is_still_found():
    lines = "\n".join(["x = 1;"] * 60)
    assert CHECKS[1](lines), "a program of one line, again and again"
    assert "gopher_stop_words" in {one.rule for one in CHECKS[0](PAGES["no_stop_words"])}
    assert rule_scope.identify(GOOD) == "en" and rule_scope.identify("kurz") == "en"


def test_the_report_counts_rules_that_did_not_act(tmp_path):
    source = filtering.source(tmp_path, [TEXTS["ko"], TEXTS["zh"], TEXTS["code"], GOOD])
    flags = (
        *filtering.only("heuristics", "repetition"),
        "--rules_from=0",
        "--repetition_from=0",
        "--min_words=40",
    )
    report, kept, _ = filtering.run(source, tmp_path / "out", *flags)
    assert len(kept) == 4
    counts = report["steps"]["heuristics"]["did_not_act"]
    assert counts["gopher_stop_words/no words for language ko"] == 1
    assert counts["gopher_word_length/no spaces between words"] == 1 and counts["c4_sentences/code"] == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (
        "rules not applied" in page and "gopher_stop_words on 1 document (no words for language ko)" in page
    )


def test_german_is_kept_among_others(tmp_path):
    source = filtering.source(tmp_path, [*(TEXTS[name] for name in ("fi", "de", "ru", "zh", "tr")), GOOD])
    _, kept, _ = filtering.run(
        source, tmp_path / "out", "--languages=de", "--rules_from=100", "--min_words=40"
    )
    assert [one["text"] for one in kept] == [TEXTS["de"]]
