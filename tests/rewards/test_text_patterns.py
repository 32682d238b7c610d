"""Rewards of forms: named structures, patterns, and patterns that would take for ever."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rewards import functions, verifier
from jaxtrain.rewards.function_args import Scored

TEXTS = {
    "<think>a</think><answer>b</answer>": {"think_answer", "think"},
    "\n<think>\na\n</think>\n\n<answer>\nb\n</answer>\n": {"think_answer", "think"},
    "<think>a</think> b": {"think"},
    "<think>a</think> so \\boxed{b}": {"think", "boxed"},
    "<answer>b</answer>": {"answer"},
    "\\boxed{\\frac{1}{2}} and more": {"boxed"},
    "<think>\\boxed{b}</think> it is so": {"think"},
    "<think>a</think>": set(),
    "<think> </think><answer>b</answer>": set(),
    "<think>a</think><answer></answer>": {"think"},
    "<think>a</think><answer>b</answer> c": {"think"},
    "c <think>a</think><answer>b</answer>": set(),
    "<think>a</think><think>a</think><answer>b</answer>": set(),
    "<think>a<answer>b</answer></think>": set(),
    "<answer>b</answer><think>a</think>": set(),
    "</think>a<think><answer>b</answer>": set(),
    "\\boxed{": set(),
    "\\boxed{}": set(),
    "": set(),
}


def scores(text, completions, records=None):
    records = records or [{}] * len(completions)
    return functions.scores(functions.resolve(text), Scored([[]] * len(completions), completions, records))


@pytest.mark.parametrize("structure", ["think_answer", "think", "answer", "boxed"])
def test_named_structures(structure):
    result = scores(f"format?structure={structure}", list(TEXTS))
    assert result.total.tolist() == [float(structure in wanted) for wanted in TEXTS.values()]


def test_a_pattern_is_searched_for_or_matches_all_of_it():
    texts = ["abc 12", "12", "x\n12", "١٢"]
    assert scores(r'regex?pattern="\d{2,}"', texts).total.tolist() == [1, 1, 1, 1]
    assert scores(r"regex?pattern=[0-9]+&mode=fullmatch", texts).total.tolist() == [0, 1, 0, 0]
    assert scores(r"regex?pattern=[a-z]+&mode=match", texts).total.tolist() == [1, 0, 1, 0]


def test_a_record_may_have_its_own_pattern(capsys):
    verifier._REPORTED.clear()
    records = [{"re": "^a"}, {"re": "^b"}, {"re": None}, {"re": "("}, {}, {"re": "\\p{L}"}]
    result = scores("regex?column=re", ["a"] * 6, records)
    assert [None if x != x else x for x in result.total.tolist()] == [1, 0, None, None, None, None]
    assert sum(result.logs.metrics["regex/no_pattern"]) == 2
    assert sum(result.logs.metrics["regex/bad_pattern"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 2 and "row 2: no pattern" in lines[0] and "'(' is not a regular expression" in lines[1]
    )


def test_a_pattern_that_would_take_for_ever_is_stopped_and_counted(capsys):
    verifier._REPORTED.clear()
    result = scores('regex?pattern="^(a+)+$"&seconds=.2', ["a" * 60 + "b", "aaa", "b"])
    assert result.total.tolist() == [0, 1, 0]
    assert result.logs.metrics["regex/timed_out"] == [1, 0, 0]
    assert "row 0: timed out: stopped after 0.2 s, by '^(a+)+$'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("format?structure=xml", "structure=xml: write one of think_answer, think, answer, boxed"),
        ("regex", "write regex.pattern="),
        ("regex?pattern=a&column=b", "write regex.pattern="),
        ("regex?pattern=(", r"pattern=\(: no regular expression: missing \)"),
        ("regex?pattern=a&mode=all", "mode=all: write one of search, match, fullmatch"),
        ("regex?pattern=a,b", r"write gold, .*; a value with , \* or & stands between double quotes"),
    ],
)
def test_what_is_no_form_is_refused(text, message):
    with pytest.raises(ConfigError, match=f"--reward=.*: {message}"):
        functions.resolve(text)
