"""Rewards of final answers: where they stand, what equals what, and expressions that would take for ever."""

import importlib.util
import math

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rewards import functions, math_answers, verifier
from jaxtrain.rewards.function_args import Scored

needs_math_verify = pytest.mark.skipif(
    not importlib.util.find_spec("math_verify"), reason="needs math-verify"
)

PLACES = {
    r"so \boxed{42}.": ("42", "box"),
    r"\boxed{1} then \boxed{\frac{1}{2}} }": (r"\frac{1}{2}", "box"),
    r"\boxed{\{1, 2\}}": (r"\{1, 2\}", "box"),
    r"\fbox{7}": ("7", "box"),
    r"\boxed 7.": ("7", "box"),
    r"\boxed{1} but \boxed{2": ("1", "box"),
    r"<think>\boxed{1}</think> \boxed{2}": ("2", "box"),
    "5 - 3 = 2\n#### 2\n": ("2", "mark"),
    "#### 1\n#### 2\nbye": ("2", "mark"),
    " it is 3 ": ("it is 3", "text"),
    "<think>#### 1</think>3": ("3", "text"),
    "": ("", "text"),
}


@pytest.mark.parametrize("text", PLACES)
def test_the_final_answer_of_a_text(text):
    assert tuple(math_answers.final_answer(text)) == PLACES[text]


def test_finding_an_answer_takes_linear_time():
    assert math_answers.final_answer("\\boxed{" * 20_000).place == "text"
    assert math_answers.final_answer("\\boxed{" * 20_000 + "1" + "}" * 20_000).text == "1"


# reference, completion, reward
PAIRS = [
    ("She has 5 - 3 = 2 left.\n#### 2", "So 2 are left.\n#### 2", 1),
    ("... #### 1,234", r"\boxed{1234}", 1),
    ("... #### 1,234", "The answer is 1,234.", 1),
    ("... #### 2", "First 2, then 3.", 0),
    ("#### -7", "I get -7", 1),
    (42, "42", 1),
    (0.5, r"$\boxed{\frac{1}{2}}$", 1),
    (r"Thus the sum is $\boxed{\frac{1}{2}}$.", "0.5", 1),
    (r"\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{3}}", 0),
    (r"\frac{1}{2}", r"The answer is $\dfrac12$.", 1),
    ("x + 1", r"\boxed{1 + x}", 1),
    ("(3, 4)", r"\boxed{(3,4)}", 1),
    ("(3, 4)", r"\boxed{(4,3)}", 0),
    (r"\{1, 2\}", r"\boxed{\{2, 1\}}", 1),
    (r"3\sqrt{2}", r"\boxed{\sqrt{18}}", 1),
    ("18 dollars", r"\boxed{18}", 1),
    (r"\text{Evelyn}", r"\boxed{Evelyn}", 1),
    (r"\text{Evelyn}", r"\boxed{Bob}", 0),
    ("10", r"\boxed{1} or \boxed{10} or \boxed{11}", 0),
    ("3", "<think>perhaps 3</think> 4", 0),
    ("3", "no idea", 0),
    ("3", "", 0),
    ("3", r"\boxed{}", 0),
    ("3", r"\boxed{" + "1+" * 2000 + "1}", 0),
]


def scores(text, completions, records):
    return functions.scores(functions.resolve(text), Scored([[]] * len(completions), completions, records))


@needs_math_verify
def test_answers_that_equal_the_reference():
    result = scores(
        "math?answer=solution", [text for _, text, _ in PAIRS], [{"solution": one} for one, _, _ in PAIRS]
    )
    assert dict(zip(PAIRS, result.total.tolist(), strict=True)) == {pair: pair[2] for pair in PAIRS}
    assert sum(result.logs.metrics["math/no_answer"]) == 4
    assert sum(result.logs.metrics["math/timed_out"]) == sum(result.logs.metrics["math/failed"]) == 0


@needs_math_verify
def test_what_cannot_be_compared_is_counted_and_none_hangs(capsys):
    verifier._REPORTED.clear()
    texts = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{10000000!}", r"\boxed{1}", "1", "1", "1"]
    records = [{"answer": "1"}] * 3 + [{"answer": None}, {"answer": "#### "}, {}]
    result = scores("math?seconds=.5", texts, records)
    rewards, metrics = result.total.tolist(), result.logs.metrics
    assert rewards[:3] == [0, 0, 1] and all(math.isnan(value) for value in rewards[3:])
    bad = [metrics["math/timed_out"][i] + metrics["math/failed"][i] + (i > 2) for i in range(6)]
    assert sum(bad[:2]) >= 1 and bad[2] == 0
    assert metrics["math/no_reference"] == [0, 0, 0, 1, 1, 1]
    assert "row 3: no reference: the record's answer is empty" in capsys.readouterr().err


def test_without_math_verify_the_reward_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--reward=math: needs .* pip install 'jaxtrain\[math\]'"):
        functions.resolve("math")
