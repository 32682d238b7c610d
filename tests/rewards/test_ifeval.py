"""Rewards of completions that follow their record's instructions."""

import importlib.util
import json
import math

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rewards import functions, ifeval, verifier
from jaxtrain.rewards.function_args import Scored
from jaxtrain.rewards.instructions import BadInstruction

KINDS = ["punctuation:no_comma", "length_constraints:number_words"]
ARGUMENTS = [
    {"num_words": None, "relation": None}, {"num_words": 3.0, "relation": "at least", "keywords": None}
]  # fmt: skip
RECORD = {"key": 1, "prompt": "Write.", "instruction_id_list": KINDS, "kwargs": ARGUMENTS}


def scores(text, completions, records):
    return functions.scores(functions.resolve(text), Scored([[]] * len(completions), completions, records))


def test_all_or_a_share_of_the_instructions():
    texts = ["one two three", "one, two three", "one two", "one, two", "<think>a, b</think>one two three"]
    assert scores("ifeval", texts, [RECORD] * 5).total.tolist() == [1, 0, 0, 0, 1]
    assert scores("ifeval?score=share", texts, [RECORD] * 5).total.tolist() == [1, 0.5, 0.5, 0, 1]


@pytest.mark.parametrize(
    "arguments", [ARGUMENTS, json.dumps(ARGUMENTS), [json.dumps(one) for one in ARGUMENTS]]
)
@pytest.mark.parametrize("kinds", [KINDS, json.dumps(KINDS)])
def test_columns_may_be_json(kinds, arguments):
    assert ifeval.instructions_of(kinds, arguments) == list(zip(KINDS, ARGUMENTS, strict=True))


@pytest.mark.parametrize(
    "kinds, arguments",
    [(KINDS, ARGUMENTS[:1]), ("[", None), (3, []), ([3], [{}]), (["a"], [3]), (["a"], ["3"])],
)
def test_columns_that_do_not_fit_are_refused(kinds, arguments):
    with pytest.raises(BadInstruction):
        ifeval.instructions_of(kinds, arguments)


def test_records_that_cannot_be_verified_are_counted(capsys):
    verifier._REPORTED.clear()
    records = [
        {"a": None, "b": None},
        {"a": [], "b": []},
        {"a": ["keywords:nothing"], "b": [{}]},
        {"a": ["punctuation:no_comma"], "b": None},
        {"a": KINDS, "b": [{}]},
    ]
    result = scores("ifeval?instructions=a&arguments=b", ["x"] * 5, records)
    assert [None if math.isnan(one) else one for one in result.total] == [None, None, None, 1, None]
    assert result.logs.metrics == {
        "ifeval/no_instructions": [1, 1, 0, 0, 0], "ifeval/bad_instruction": [0, 0, 1, 0, 1]
    }  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "row 2: bad instruction: 'keywords:nothing' is not a kind" in lines[1]


def test_what_is_missing_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="score=some: write one of all, share"):
        functions.resolve("ifeval?score=some")
    with pytest.raises(ConfigError, match="needs instruction_id_list, kwargs, which x does not have"):
        functions.check_arguments(functions.resolve("ifeval"), {"completions", "log_metric"}, "x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--reward=ifeval: needs .* pip install 'jaxtrain\[filters\]'"):
        functions.resolve("ifeval")
