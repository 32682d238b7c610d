"""Thresholds in the histograms: every rule that measures something has one, and flags are those of the config."""

import dataclasses
import re

import pytest

from jaxtrain.apps.filters import config, thresholds
from tests.source import ROOT

# What is found, not measured: it has no threshold.
WITHOUT = {
    "c4_lorem_ipsum",
    "c4_curly_bracket",
    "no_text",
    "too_long",
    "invalid_utf8",
    "half_surrogate_pair",
    "empty",
}
SETTINGS = dataclasses.asdict(config.Filter())


def test_the_flags_are_those_of_the_config():
    for group, names in [*thresholds.FLAGS.values(), *thresholds._STEPS.values()]:
        assert {*names} <= {*SETTINGS[group]}, group


def test_every_rule_that_measures_has_a_threshold():
    source = "".join(path.read_text() for path in (ROOT / "jaxtrain" / "apps" / "filters").glob("*.py"))
    rules = {*re.findall(r'Finding\("(\w+)"', source)} - WITHOUT
    assert rules - {*thresholds.FLAGS} == set() and len(rules) > 15


@pytest.mark.parametrize(
    ("step", "rule", "wanted"),
    [
        ("heuristics", "gopher_word_length", [(3.0, "--min_word_length=3"), (10.0, "--max_word_length=10")]),
        ("repetition", "gopher_top_2gram", [(0.2, "--repeated_ngrams=1")]),
        ("repetition", "gopher_repeated_10grams", [(0.1, "--repeated_ngrams=1")]),
        ("repetition", "gopher_repeated_11grams", []),
        ("harm", "harm_request", [(1.5, "--max_harm=1.5")]),
        ("read", "empty", []),
    ],
)
def test_marks(step, rule, wanted):
    assert [*map(tuple, thresholds.marks(step, rule, SETTINGS))] == wanted
    assert [*thresholds.marks(step, rule, {})] == [], "an older report may lack it"
