"""Word problems with a calculator: records, answers, and whole runs on them."""

import dataclasses
import json
from fractions import Fraction

import pytest

from jaxtrain.config import ConfigError, Dialogs
from jaxtrain.rl import environment_spec, gsm8k
from tests.runs import jsonl

GOOD = [
    {"question": "Ann has 3 bags of 14 figs. How many figs?", "answer": "3*14 = <<3*14=42>>42.\n#### 42"},
    {"question": "A boat costs $1,250 and a half. What do two cost?", "answer": "#### 2,501"},
    {"question": "What is a half?", "answer": "It is\n#### 0.5"},
    {"question": "How cold is it?", "answer": "#### -7"},
]
BAD = [
    {"question": "No number?", "answer": "#### many"}, {"question": "No mark?", "answer": "42"},
    {"question": " ", "answer": "#### 1"}, {"answer": "#### 1"}, {"question": "Half?", "answer": None},
    {"question": ["a"], "answer": "#### 1"}, {"question": "\ud800", "answer": "#### 1"},
    {"question": "By 0?", "answer": "#### 1/0"}, {"question": "Long?", "answer": "#### " + "9" * 99},
    {"question": "Huge?", "answer": "#### 1e999999999"},
]  # fmt: skip


def data(tmp_path, **fields):
    return Dialogs(cache_dir=str(tmp_path / "cache"), **fields)


def test_records_have_a_question_and_a_number(tmp_path):
    text = jsonl(tmp_path / "a.jsonl", GOOD)
    read = gsm8k.read_problems(text, data(tmp_path))
    assert [one.answer for one in read.problems] == [42, 2501, Fraction(1, 2), -7] and read.lines == ()
    renamed = jsonl(tmp_path / "b.jsonl", [{"problem": q["question"], "gold": q["answer"]} for q in GOOD])
    columns = data(tmp_path, columns="question:problem,answer:gold")
    assert gsm8k.read_problems(renamed, columns).digest == read.digest
    assert gsm8k.read_problems(jsonl(tmp_path / "c.jsonl", GOOD[:2]), data(tmp_path)).digest != read.digest


def test_malformed_records_are_refused_or_counted(tmp_path):
    text = jsonl(tmp_path / "a.jsonl", [*GOOD, *BAD])
    with pytest.raises(ConfigError, match=rf"--env=gsm8k:{text}.*a\.jsonl.*no answer.*--on_bad_record=skip"):
        gsm8k.read_problems(text, data(tmp_path))
    read = gsm8k.read_problems(text, data(tmp_path, on_bad_record="skip"))
    assert len(read.problems) == 4 and f"{len(BAD)} bad records skipped" in read.lines[0]
    none = jsonl(tmp_path / "none.jsonl", BAD)
    with pytest.raises(ConfigError, match="no problem there; 10 bad records skipped"):
        gsm8k.read_problems(none, data(tmp_path, on_bad_record="skip"))
    with pytest.raises(ConfigError, match="--env=gsm8k:jsonl:/no/such"):
        gsm8k.read_problems("jsonl:/no/such.jsonl", data(tmp_path))


@pytest.mark.parametrize("math_verify", [False, True])
@pytest.mark.parametrize(
    "text, right, answered",
    [
        ("#### 42", True, True), ("So 3*14 = 42.\n#### 42", True, True), ("#### $42.00", True, True),
        ("The answer is 42.", True, True), ("I think 41, no, 42", True, True), ("\\boxed{42}", True, True),
        ("#### 42 figs", True, True), ("#### 43", False, True), ("42 figs\n#### 43", False, True),
        ("It is 42, not 43", False, True), ("", False, False), ("many", False, False), ("####", False, False),
        ("#### 1e999999999", False, True), ("#### 84/2", True, True),
    ],
)  # fmt: skip
def test_the_final_answer_counts(monkeypatch, text, right, answered, math_verify):
    if math_verify:
        pytest.importorskip("math_verify")
    monkeypatch.setattr(gsm8k, "_has_math_verify", lambda: math_verify)
    found = gsm8k.graded(text, Fraction(42))
    assert found[0] == right and (found[1] == answered or "e999" in text)


def test_what_is_no_plain_number_is_compared_by_math_verify(monkeypatch):
    pytest.importorskip("math_verify")
    assert gsm8k.graded("\\boxed{\\frac{84}{2}}", Fraction(42)) == (True, True)
    assert gsm8k.graded("\\boxed{\\frac{84}{4}}", Fraction(42)) == (False, True)
    monkeypatch.setattr(gsm8k, "_has_math_verify", lambda: False)
    assert not gsm8k.graded("\\boxed{\\frac{84}{2}}", Fraction(42))[0]


def episode(answer=42):
    environment = gsm8k.Gsm8k([gsm8k.MathProblem("Ann has 3 bags of 14 figs.", Fraction(answer))])
    (message,) = environment.reset({}, 5)
    assert message["content"].startswith("Ann has") and "calculator(expression)" in message["content"]
    return environment


def call(**arguments):
    return f"<tool_call>{json.dumps({'name': 'calculator', 'arguments': arguments})}</tool_call>"


def test_an_episode_calls_the_calculator_and_answers():
    environment = episode()
    seen = environment.step(f"I multiply. {call(expression='3*14')}")
    assert [message["content"] for message in seen.messages] == ["42"] and not seen.done and not seen.reward
    assert seen.metrics == {"success": 0, "no_answer": 0, "tool_calls": 1, "tool_errors": 0}
    seen = environment.step("calculator(42 + 0)")
    assert [message["content"] for message in seen.messages] == ["42"]
    seen = environment.step("#### 42")
    assert seen.done and seen.reward == 1 and seen.metrics["success"] == 1 and not seen.metrics["tool_calls"]
    wrong = episode().step("nothing")
    assert wrong.done and wrong.reward == 0 and wrong.metrics["no_answer"]


@pytest.mark.parametrize(
    "text, told",
    [
        (call(expression="3 ** 14"), "Error: write numbers with"), (call(expression="1/0"), "Error: a division by 0"),
        (call(), "Error: calculator: missing a required argument: 'expression'"),
        (call(expression="1", more=2), "Error: calculator: got an unexpected keyword"),
        (call(expression={"a": 1}), "Error: write numbers"), ("calculator(3*14", "Error: the call has no end"),
        ('<tool_call>{"name": "calc', "Error: this is not a whole call"),
        (call(expression="1").replace("calculator", "sum"), "Error: there is no tool sum; there are calculator"),
    ],
)  # fmt: skip
def test_errors_of_tools_are_told_and_counted(text, told):
    seen = episode().step(text)
    assert seen.messages[0]["content"].startswith(told) and not seen.done and seen.metrics["tool_errors"] == 1


def test_the_flag_names_a_source_and_a_weight(tmp_path):
    text = jsonl(tmp_path / "a.jsonl", GOOD)
    one, other = environment_spec.resolve(f"gsm8k:{text}*3,tinytown:search")
    assert (one.name, one.data, one.share, other.data) == (f"gsm8k:{text}", text, 0.75, "")
    assert environment_spec.resolve("gsm8k:jsonl:data/*.jsonl")[0].data == "jsonl:data/*.jsonl"
    assert environment_spec.resolve("gsm8k:hf:openai/gsm8k?config=main")[0].share == 1
    assert environment_spec.digests(f"gsm8k:{text},tinytown:search", data(tmp_path)) == [
        gsm8k.read_problems(text, data(tmp_path)).digest
    ]
    for wrong, message in {
        f"gsm8k:{text}*0": "the weight", "gsm8k:": "write MODULE:CLASS", f"gsm8k:{text},gsm8k:{text}": "twice",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            environment_spec.resolve(wrong)


def test_problems_that_do_not_fit_are_left_out_and_counted(tmp_path):
    text = jsonl(tmp_path / "a.jsonl", GOOD)
    specs = environment_spec.resolve(f"gsm8k:{text},tinytown:search")
    ready, lines = environment_spec.open_data(
        specs,
        data(tmp_path),
        lambda messages, variables: "cold" not in messages[0]["content"] and variables["tools"],
    )
    assert lines[0].startswith("3 problems of") and "1 problems that leave no room" in lines[1]
    questions = {ready[0].make().reset({}, seed)[0]["content"] for seed in range(9)}
    assert len(questions) == 3 and ready[1] is specs[1]
    with pytest.raises(ConfigError, match="none of its 4 problems leaves room"):
        environment_spec.open_data(
            specs, dataclasses.replace(data(tmp_path)), lambda messages, variables: False
        )
