"""The judge that --judge names."""

from types import SimpleNamespace

import pytest

from jaxtrain.apps.evals.config import EvalJudge
from jaxtrain.config import ConfigError
from jaxtrain.inference import judges
from jaxtrain.inference.config import VERDICT_TOKENS, MachineFlags, QualityFlags
from jaxtrain.inference.llm import LLM, Completion, Usage, user_messages
from jaxtrain.inference.llm_judge import JudgeCase

CASE = JudgeCase(user_messages("What is 2 + 3?"), "Five.")


def open_judge(judge, reply="Fine.\nScore: 8", chat=True, **changes):
    """(the judge, the model behind it, the requests that it got)."""
    requests = []

    def generate(batch):
        requests.extend(batch)
        return [[Completion(reply, "stop")] * one.samples for one in batch]

    def open_model(name, flag, max_new):
        assert flag == "judge" and max_new == VERDICT_TOKENS
        return LLM(name, generate, chat, Usage())

    quality = QualityFlags(judge=judge, **changes)
    return *judges.open_judge(quality, MachineFlags(), open_model), requests


def test_a_function_judges_without_a_model():
    judge, model, _ = open_judge("gold")
    assert judge.name == "gold" and model is None
    assert open_judge("")[:2] == (None, None)


def test_an_endpoint_judges_by_the_rubric(tmp_path):
    judge, model, requests = open_judge("http://host/v1?model=m", rubric="Be brief.")
    assert judge.score([CASE], 0).values == [8.0] and model.name == "http://host/v1?model=m"
    assert "Rubric: Be brief." in requests[0].messages[-1]["content"] and requests[0].temperature == 0
    (tmp_path / "rubric.txt").write_text("Be kind.")
    judge, _, requests = open_judge("http://h/v1", rubric=str(tmp_path / "rubric.txt"), votes=3, soft=True)
    judge.score([CASE], 0)
    assert "Rubric: Be kind." in requests[0].messages[-1]["content"]
    assert (requests[0].samples, requests[0].temperature, requests[0].top_logprobs) == (3, 0.7, judges.TOP)


def test_models_and_rubrics_that_cannot_judge_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="no chat template to read a rubric with"):
        open_judge("http://h/v1", chat=False)
    with pytest.raises(ConfigError, match=r"--rubric=nowhere\.txt: no such file"):
        open_judge("http://h/v1", rubric="nowhere.txt")
    monkeypatch.setattr(judges.workdir, "read_run", lambda source, flag: {"stage": "reward"})
    with pytest.raises(ConfigError, match="a reward model reads no rubric"):
        open_judge("runs/rm", votes=3)
    monkeypatch.setattr(
        judges, "reward_model_judge", lambda source, step, machine: SimpleNamespace(name=str(source))
    )
    assert open_judge("runs/rm")[0].name == "runs/rm"


@pytest.mark.parametrize("flags, temperature, max_new", [
    ({}, 0.0, VERDICT_TOKENS), ({"votes": 3}, 0.7, VERDICT_TOKENS), ({"judge_temperature": 1.0}, 1.0, VERDICT_TOKENS),
    ({"votes": 2, "judge_temperature": 0.2}, 0.2, VERDICT_TOKENS), ({"judge_temperature": 0.0}, 0.0, VERDICT_TOKENS),
])  # fmt: skip
def test_the_judge_s_temperature_is_a_flag(flags, temperature, max_new):
    judge, _, requests = open_judge("http://h/v1", **flags)
    judge.score([CASE], 0)
    assert {(one.temperature, one.max_new) for one in requests} == {(temperature, max_new)}


def test_flags_of_a_judge_that_would_do_nothing_are_refused():
    for flags, message in (
        (
            {"judge": "gold", "judge_temperature": 1.0},
            "--judge_temperature: acts only where a model is the --judge",
        ),
        ({"judge": "gold", "judge_max_new": 9}, "--judge_max_new: acts only"),
        (
            {"judge": "http://h/v1", "judge_temperature": -0.5},
            r"--judge_temperature=-0\.5: at least 0, or -1",
        ),
        (
            {"judge": "http://h/v1", "judge_temperature": 0.0, "votes": 2},
            "2 --votes at temperature 0 are one vote",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            QualityFlags(**flags).check()
        with pytest.raises(ConfigError, match=message):
            EvalJudge(**flags).check()


def test_a_function_that_needs_what_a_judge_cannot_give_is_refused_at_once(tmp_path):
    (tmp_path / "mine.py").write_text("def f(completions, answer): return [1.0] * len(completions)\n")
    quality = QualityFlags(judge=f"{tmp_path}/mine.py:f")
    with pytest.raises(
        ConfigError, match=r"--judge=.*mine\.py:f: it needs answer, which what is judged does not have"
    ):
        judges.open_judge(quality, MachineFlags(), None)
    judge, _ = judges.open_judge(quality, MachineFlags(), None, {"answer"})
    assert judge.score([CASE._replace(record={"answer": 5})], 0).values == [1.0]
