"""lm-eval's tasks on our runs; the task is defined here, so nothing is downloaded."""

import json

import numpy as np
import pytest

from experiments import benchmarks, evaluate, generators
from experiments.sample import Machine
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.feedback.asking import Ask, user
from jaxtrain.feedback.endpoint import Endpoint
from tests.experiments.conftest import quick

QUESTIONS = [
    "Human: How do I paint a boat?\nAI:",
    "Human: Where does Tess live?\nAI:",
    "Human: Add 3 and 4.\nAI:",
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
"""
CHOICES = """doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
UNTIL = """doc_to_target: "{{written}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def made(town):
    machine = Machine(cache_dir=town.cache.partition("=")[2])
    with quick():
        yield generators.open_one(str(town / "sft"), "models", Endpoint(), machine, 8)


def greedy(made, question):
    """What the run writes, likeliest token by likeliest token, and its log-probability."""
    (reply,) = made.generate([Ask(user(question), temperature=0, max_new=8, top_logprobs=1, raw=True)])[0]
    return reply


def test_without_the_package_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    cfg = command_line.from_flags(evaluate.Evaluate, ["--tasks=arc_easy"])
    with pytest.raises(ConfigError, match=r"--tasks=arc_easy: needs the package lm_eval.*lm-eval"):
        benchmarks.check(cfg.benchmarks)


def test_a_continuation_is_cut_after_its_context(made):
    prompt, answer = benchmarks._cut(made, "Human: How do I ", "paint a boat?")
    tokenizer = made.inside.template.tokenizer
    assert prompt[0] == tokenizer.bos and tokenizer.decode(answer.tolist()).startswith(" paint")
    assert tokenizer.decode([*prompt[1:].tolist(), *answer.tolist()]) == "Human: How do I paint a boat?"
    prompt, answer = benchmarks._cut(made, "", "Hi")
    assert prompt.tolist() == [tokenizer.bos] and tokenizer.decode(answer.tolist()) == "Hi"


def test_tasks_of_ours(made, town, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    with quick():
        written = [greedy(made, question) for question in QUESTIONS]
        texts = [reply.text.split("\n")[0] for reply in written]
        assert all(texts)
        rows = [
            {"question": q, "choices": [" zebra zebra", text], "answer": int(i != 2), "written": text}
            for i, (q, text) in enumerate(zip(QUESTIONS, texts, strict=True))
        ]
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, kind, rest in (
            ("chosen", "multiple_choice", CHOICES),
            ("written", "generate_until", UNTIL),
        ):
            (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, kind=kind, data=data) + rest)
        flags = ["--tasks=chosen,written", f"--tasks_dir={tmp_path}"]
        cfg = command_line.from_flags(evaluate.Evaluate, flags)
        benchmarks.check(cfg.benchmarks)
        found = benchmarks.measure(cfg.benchmarks, {"sft": made})
        lm = benchmarks.as_lm(made)
        told = lm.loglikelihood(
            [_Request(q, reply.text) for q, reply in zip(QUESTIONS, written, strict=True)]
        )
        (rolling,) = lm.loglikelihood_rolling([_Request(QUESTIONS[0])])
        (whole,) = lm.loglikelihood([_Request("", QUESTIONS[0])])
    assert found["sft"]["chosen, acc"] == pytest.approx(4 / 5), "the third is said to be the other one"
    assert found["sft"]["written, exact_match"] == 1.0
    same = 0
    for question, (logp, best), reply in zip(QUESTIONS, told, written, strict=True):
        own = reply.logprobs[: len(reply.logprobs) - (reply.finish_reason == "stop")]
        ids = benchmarks._cut(made, question, reply.text)[1]
        if [made.inside.template.tokenizer.decode([int(i)]) for i in ids] == [one.token for one in own]:
            assert best and logp == pytest.approx(sum(one.logprob for one in own), abs=1e-3)
            same += 1  # its text is cut as it was drawn
    assert same, "what the sampler has, token by token"
    assert rolling == pytest.approx(whole[0], abs=1e-3) and np.isfinite(rolling)
    unknown = command_line.from_flags(evaluate.Evaluate, ["--tasks=chozen", f"--tasks_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=r"no task chozen; did you mean chosen"):
        benchmarks.check(unknown.benchmarks)


class _Request:
    def __init__(self, *args):
        self.args = args
