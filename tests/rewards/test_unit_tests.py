"""Rewards of programs with unit tests: records of MBPP and HumanEval, completions as models write them."""

import math

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rewards import functions, unit_tests, verifier
from jaxtrain.rewards.function_args import Scored
from jaxtrain.rewards.sandbox import runner
from jaxtrain.rewards.sandbox.runner import SandboxResult

MBPP = {
    "task_id": 2,
    "text": "Write a function to find the shared elements from the given two lists.",
    "code": "import math\ndef similar_elements(a, b):\n  return tuple(set(a) & set(b))",
    "test_list": [
        "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
        "assert math.floor(len(similar_elements((1, 2), (2, 3)))) == 1",
    ],
    "test_setup_code": "",
    "challenge_test_list": [],
}
HUMAN_EVAL = {
    "task_id": "HumanEval/50",
    "prompt": (
        "def encode_shift(s: str):\n    return ''.join([chr(((ord(c) + 5 - ord('a')) % 26) + ord('a')) for c in s])\n"
        '\n\ndef decode_shift(s: str):\n    """Decodes."""\n'
    ),
    "entry_point": "decode_shift",
    "canonical_solution": "    return ''.join([chr(((ord(c) - 5 - ord('a')) % 26) + ord('a')) for c in s])\n",
    "test": (
        "METADATA = {}\n\n\ndef check(candidate):\n    from random import randint\n    import copy\n"
        "    s = 'hello'\n    assert candidate(copy.deepcopy(encode_shift(s))) == s\n"
    ),
}
RIGHT = "def similar_elements(a, b):\n    return list(set(a) & set(b))\n"
DECODED = HUMAN_EVAL["canonical_solution"]


@pytest.mark.parametrize(
    "text, code",
    [
        ("x = 1\n", "x = 1\n"),
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nor\n```py\nx = 2\n```\n", "x = 2\n"),
        ("```python\nx = 1\n```\nRun it:\n```bash\npython x.py\n```", "x = 1\n"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("```python\nx = 1", "x = 1"),
        ("<think>```python\nx = 1\n```</think>\n```python\nx = 2\n```", "x = 2\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("", ""),
    ],
)
def test_the_program_of_a_completion(text, code):
    assert unit_tests.code_of(text) == code


def scores(text, completions, records):
    return functions.scores(functions.resolve(text), Scored([[]] * len(completions), completions, records))


def test_records_of_mbpp_and_of_humaneval():
    cases = [
        (MBPP, f"```python\n{RIGHT}```", 1),
        (MBPP, "def similar_elements(a, b):\n    return (4, 5)\n", 0),
        (MBPP, "set = len = lambda x: 1\ndef similar_elements(a, b):\n    return 1\n", 0),
        (MBPP, "I cannot.", 0),
        (MBPP, "```python\n```", 0),
        (HUMAN_EVAL, DECODED, 1),
        (HUMAN_EVAL, f"```python\n{HUMAN_EVAL['prompt']}{DECODED}```", 1),
        (HUMAN_EVAL, f"def decode_shift(s):\n{DECODED}", 1),
        (HUMAN_EVAL, "encode_shift = lambda s: s\ndef decode_shift(s): return s\n", 0),
        (HUMAN_EVAL, "    return s\n", 0),
        (HUMAN_EVAL, "    import os\n    os._exit(0)\n", 0),
        ({"test_list": ["assert sum(10, 15) == 6"], "code": "def sum(a, b): return 6"}, "def sum(a, b): return 6", 1),
        ({"test_list": ["assert f(2) == WANTED"], "test_setup_code": "WANTED = 4"}, "def f(x): return x * 2", 1),
        ({"test_list": ["assert sqrt(f()) == 2"], "test_imports": ["from math import sqrt"]}, "def f(): return 4", 1),
    ]  # fmt: skip
    result = scores("code?seconds=60", [text for _, text, _ in cases], [record for record, _, _ in cases])
    assert result.total.tolist() == [wanted for _, _, wanted in cases]
    sums = {name: sum(values) for name, values in result.logs.metrics.items()}
    assert sums == {
        "code/timed_out": 0, "code/failed": 0, "code/crashed": 1, "code/unsupported": 0, "code/no_code": 1,
        "code/no_tests": 0,
    }  # fmt: skip


def test_the_share_of_tests_may_be_the_reward_and_columns_have_other_names():
    record = {"checks": ["assert f(1) == 1", "assert f(2) == 3"]}
    result = scores("code?tests=checks&score=share&seconds=60", ["def f(x): return x"], [record])
    assert result.total.tolist() == [0.5]


def test_records_without_tests_do_not_apply(capsys):
    verifier._REPORTED.clear()
    records = [
        {},
        {"test_list": []},
        {"test_list": "assert"},
        {"test": "def check(c): pass"},
        {"test_list": ["("]},
    ]
    result = scores("code", [RIGHT] * 5, records)
    assert all(math.isnan(value) for value in result.total)
    assert result.logs.metrics["code/no_tests"] == [1] * 5
    assert "row 0: no tests: the record has no tests" in capsys.readouterr().err


def test_outcomes_of_sandboxes_are_counted_and_what_was_not_set_is_printed_once(monkeypatch, capsys):
    verifier._REPORTED.clear()
    unit_tests._REPORTED.clear()
    outcomes = [
        SandboxResult(2, 2, not_set=("a filter (why): risk",)),
        SandboxResult(1, 2, not_set=("a filter (why): risk",)),
        SandboxResult(0, 2, fault="timed_out", detail="stopped"),
        SandboxResult(0, 2, fault="failed", detail="ended"),
        SandboxResult(0, 2, unsupported="a lambda"),
        SandboxResult(0, 2, crashed=True),
    ]
    monkeypatch.setattr(runner, "run_all", lambda jobs, limits: outcomes)
    for _ in range(2):
        result = scores("code?seconds=3&memory=100", [RIGHT] * 6, [MBPP] * 6)
    assert result.total.tolist() == [1, 0, 0, 0, 0, 0]
    assert {name: sum(values) for name, values in result.logs.metrics.items()} == {
        "code/timed_out": 1, "code/failed": 1, "code/crashed": 1, "code/unsupported": 1, "code/no_code": 0,
        "code/no_tests": 0,
    }  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "--reward=code: the sandbox could not set a filter (why): risk"
    wanted = ["row 2: timed out: s", "row 3: failed: ende", "row 4: unsupported:"]
    assert [line.partition(": ")[2][:19] for line in lines[1:]] == wanted


def test_options_and_columns_are_checked():
    with pytest.raises(ConfigError, match="score=best: write one of all, share"):
        functions.resolve("code?score=best")
    reward = functions.resolve("code")
    for names in ({"test_list"}, {"test", "entry_point"}):
        functions.check_arguments(reward, {"completions", "log_metric", *names}, "x")
    with pytest.raises(
        ConfigError, match=r"needs test_list, or test and entry_point .*, which x does not have; there are"
    ):
        functions.check_arguments(reward, {"completions", "log_metric", "test"}, "x")
