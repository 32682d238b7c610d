"""Verified rewards: their options, the columns that they need, and what they count."""

import inspect

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rewards import function_args, functions, verifier
from jaxtrain.rewards.function_args import Scored
from jaxtrain.rewards.functions import RewardFunction, WeightedReward
from jaxtrain.rewards.verifier import Verification, Verifier

FAULTS = ("timed_out", "wrong")


def lengths(completions, columns, options):
    result = []
    for text, most in zip(completions, columns["most"], strict=True):
        fault = {"late": "timed_out", "no": "wrong"}.get(text, "")
        result.append(Verification(None if most is None else float(len(text) <= most), fault, "the reason"))
    return result


LENGTH = Verifier(
    check=lengths, options={"most": "most", "note": "note", "seconds": 2.0, "size": 3},
    columns=("most",), optional=("note",), faults=FAULTS, quiet=("wrong",),
    refuse=lambda options: "seconds are too many" if options["seconds"] > 50 else "",
)  # fmt: skip


def configured(*options):
    return verifier.configured("length", LENGTH, options, "--reward=length")


def test_the_columns_of_a_verifier_are_those_that_its_options_name():
    reward = configured(("most", "limit"), ("seconds", "5"))
    assert set(inspect.signature(reward).parameters) == {"completions", "log_metric", "limit", "note"}
    assert function_args.missing(reward, {"completions", "log_metric"}) == ["limit"]
    assert dict(reward.options) == {"most": "limit", "note": "note", "seconds": 5.0, "size": 3}
    assert reward == configured(("seconds", "5.0"), ("most", "limit"), ("name", "other")) != configured()
    with pytest.raises(
        ConfigError, match=r"it needs limit, which x does not have; .*; write length\?most=COLUMN"
    ):
        whole = WeightedReward("length", (RewardFunction("length", reward),))
        functions.check_arguments(whole, {"completions", "log_metric"}, "x")


def test_every_fault_is_counted_and_the_first_of_a_kind_is_printed(capsys):
    verifier._REPORTED.clear()
    reward = configured(("name", "short"))
    scored = Scored(
        [[]] * 5, ["abc", "late", "late", "no", "long text"], [{"most": 4}] * 3 + [{}, {"most": 4}]
    )
    result = functions.scores(RewardFunction(reward.name, reward, "text"), scored)
    np.testing.assert_array_equal(result.total, [1, 1, 1, np.nan, 0])
    assert result.logs.metrics == {"short/timed_out": [0, 1, 1, 0, 0], "short/wrong": [0, 0, 0, 1, 0]}
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "--reward=length: row 1: timed out: the reason; such completions are counted as short/timed_out"
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ([("colour", "red")], "length has no option colour; it has name, most, note, seconds, size"),
        ([("seconds", "soon")], "seconds=soon: write a number above 0"),
        ([("seconds", "0")], "seconds=0: write a number above 0"),
        ([("seconds", "nan")], "seconds=nan: write a number above 0"),
        ([("seconds", "inf")], "seconds=inf: write a number above 0"),
        ([("size", "1.5")], "size=1.5: write a whole number above 0"),
        ([("most", "a b")], "most=a b: no name of a column"),
        ([("name", "a/b")], "name=a/b: write letters"),
        ([("seconds", "60")], "seconds are too many"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"^--reward=length: {message}"):
        configured(*options)


def test_several_functions_of_one_name_are_reported_apart():
    one = functions.resolve("format,format?structure=boxed,format?structure=think&name=thinks")
    scored = Scored([[]] * 2, ["<think>a</think><answer>b</answer>", r"\boxed{1}"], [{}, {}])
    by_function = functions.scores(one, scored).by_function
    assert {name: values.tolist() for name, values in by_function.items()} == {
        "format": [1, 0], "format_2": [0, 1], "thinks": [1, 0]
    }  # fmt: skip
