"""lm-eval's tasks on our runs; the task is defined here, so nothing is downloaded."""

import json
from typing import NamedTuple

import numpy as np
import pytest

from jaxtrain import flags as command_line
from jaxtrain.apps.evals import config, lm_eval
from jaxtrain.config import ConfigError
from jaxtrain.inference import local
from jaxtrain.inference.config import EndpointFlags, MachineFlags
from jaxtrain.inference.llm import Request, user_messages
from jaxtrain.tasks import harness, task_model
from tests.runs import quick
from tests.tasks import bundles

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
def llm(town):
    machine = MachineFlags(cache_dir=town.cache.partition("=")[2])
    with quick():
        yield local.open_llm(str(town / "sft"), "models", EndpointFlags(), machine, 8)


def greedy(llm, question):
    """What the run writes, likeliest token by likeliest token, and its log-probability."""
    (reply,) = llm.generate(
        [Request(user_messages(question), temperature=0, max_new=8, top_logprobs=1, raw=True)]
    )[0]
    return reply


class Shown(NamedTuple):
    """A token that the sampler sees as one of the likeliest after a question; `first`: the likeliest."""

    question: str
    text: str
    logp: float
    first: bool


def likeliest(llm, question):
    """Those of the 20 likeliest tokens that are cut as one where they stand after the question."""
    ask = Request(user_messages(question), temperature=0, max_new=1, top_logprobs=20, raw=True)
    top = llm.generate([ask])[0][0].logprobs[0].top
    decode = llm.local.template.tokenizer.decode
    for i, (text, logp) in enumerate(top):
        ids = task_model.tokenize_pair(lm_eval.task_model_of(llm), question, text)[1].tolist()
        if len(ids) == 1 and decode(ids) == text:
            yield Shown(question, text, logp, i == 0)


def test_without_the_package_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    cfg = command_line.from_flags(config.Evaluate, ["--tasks=arc_easy"])
    with pytest.raises(ConfigError, match=r"--tasks=arc_easy: needs the package lm_eval.*lm-eval"):
        lm_eval.check(cfg.benchmarks)


def test_tasks_of_ours(llm, town, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    with quick():
        written = [greedy(llm, question) for question in QUESTIONS]
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
        cfg = command_line.from_flags(config.Evaluate, flags)
        lm_eval.check(cfg.benchmarks)
        result = lm_eval.measure(cfg.benchmarks, {"sft": llm})
        lm = harness.harness_model(lm_eval.task_model_of(llm))
        shown = [one for question in QUESTIONS for one in likeliest(llm, question)]
        pairs = lm.loglikelihood([_Request(one.question, one.text) for one in shown])
        (rolling,) = lm.loglikelihood_rolling([_Request(QUESTIONS[0])])
        (whole,) = lm.loglikelihood([_Request("", QUESTIONS[0])])
    assert result["sft"]["chosen, acc"] == pytest.approx(2 / 3), "the third is said to be the other one"
    assert result["sft"]["written, exact_match"] == 1.0
    assert len(shown) > 9 and [logp for logp, _ in pairs] == pytest.approx(
        [one.logp for one in shown], abs=1e-3
    )
    assert [best for _, best in pairs] == [one.first for one in shown], "what the sampler has"
    assert rolling == pytest.approx(whole[0], abs=1e-3) and np.isfinite(rolling)
    unknown = command_line.from_flags(config.Evaluate, ["--tasks=chozen", f"--tasks_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=r"no task chozen; did you mean chosen"):
        lm_eval.check(unknown.benchmarks)


def test_core_is_measured_of_a_run_too(llm, tmp_path):
    folder = bundles.write(tmp_path / "bundle")
    cfg = command_line.from_flags(
        config.Evaluate, ["--tasks=core", f"--tasks_dir={folder}", "--task_limit=1"]
    )
    lm_eval.check(cfg.benchmarks)
    with quick():
        found = lm_eval.measure(cfg.benchmarks, {"sft": llm, "far": llm._replace(local=None)})
    assert list(found) == ["sft"]
    assert list(found["sft"]) == ["core", "core/piqa", "core/winograd", "core/jeopardy"]
    assert found["sft"]["core/piqa"] in (-1, 1), "one question, and half is chance"
    missing = command_line.from_flags(config.Evaluate, ["--tasks=core"])
    with pytest.raises(ConfigError, match=r"--tasks=core: name a folder .* by --tasks_dir"):
        lm_eval.check(missing.benchmarks)
    with pytest.raises(ConfigError, match="--shots=3: CORE has its own number of examples"):
        command_line.from_flags(config.Evaluate, ["--tasks=core", f"--tasks_dir={folder}", "--shots=3"])


class _Request:
    def __init__(self, *args):
        self.args = args
