"""A teacher's completions as files: what is left out, and what an endpoint rejects."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.prompts import Prompt
from jaxtrain.distillation import teacher_completions
from jaxtrain.inference.llm import LLM, REFUSED, Completion, TokenLogprob, Usage, user_messages

CFG = SimpleNamespace(
    run=SimpleNamespace(seed=0),
    loss=SimpleNamespace(draw_temperature=1.0, teacher="http://host/v1"),
    samples=SimpleNamespace(max_new=4),
    endpoint=SimpleNamespace(price_out=2.0, cost=lambda read, written: 0.5),
)


def record(text, ended=True):
    return {"prompt": [], "completion": text, "ended": ended}


def test_completions_without_an_end_or_a_text_are_left_out_and_counted():
    records = [record("a"), record("b", ended=False), record(" \n"), record("c", ended=False)]
    assert list(teacher_completions._left_out(records, records[:1], "data")) == [
        "2 completions of data without an end left out",
        "1 completions of data of white space alone left out",
    ]
    assert list(teacher_completions._left_out(records[:1], records[:1], "data")) == []
    with pytest.raises(Failure, match="of its 2 completions 1 did not end and the others are empty"):
        list(teacher_completions._left_out(records[1:3], [], "data"))


def test_a_prompt_that_an_endpoint_rejects_is_not_trained_on():
    completions = [[Completion("", REFUSED)] * 2, [Completion("yes", "stop", ()), Completion("", REFUSED)]]
    model = LLM("m", lambda requests: completions[: len(requests)], True, Usage())
    prompts = [Prompt(user_messages(text), np.zeros(1, np.int32), {}) for text in ("much too long", "a")]
    (row,) = teacher_completions._request_records(CFG, model, prompts, 2)
    assert row["input"] == list(user_messages("a"))
    assert [one["message"]["content"] for one in row["choices"]] == ["yes"]


def test_a_stored_completion_has_the_log_probabilities_as_the_api_has_them(tmp_path):
    token = TokenLogprob("é", -0.5, (("é", -0.5), ("e", -1.5)), ("é".encode(), "é".encode(), b"e"))
    request = teacher_completions.llm.Request(user_messages("Hi?"))
    stored = teacher_completions._stored("m", request, [Completion("é", "stop", (token,))])
    file = tmp_path / "teacher" / "data.jsonl"
    teacher_completions._write(file, [stored], SimpleNamespace(primary=False))
    assert not file.exists()
    teacher_completions._write(file, [stored], SimpleNamespace(primary=True))
    (choice,) = json.loads(file.read_text())["choices"]
    (entry,) = choice["logprobs"]["content"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("é", -0.5, [0xC3, 0xA9])
    assert [(one["token"], one["bytes"]) for one in entry["top_logprobs"]] == [
        ("é", [0xC3, 0xA9]),
        ("e", [0x65]),
    ]


def test_usage_is_reported_with_its_cost_and_several_processes_are_refused():
    usage = Usage(tokens_in=1000, tokens_out=20, cached=3, refused=1)
    assert teacher_completions._usage(CFG, usage) == (
        "1,000 tokens read, 20 written, 3 answers from the cache, 1 prompts were refused and left out, 0.50 in money"
    )
    with pytest.raises(ConfigError, match="one process sends requests to an endpoint"):
        teacher_completions.request_completions(CFG, None, SimpleNamespace(process=(0, 2)), None)
