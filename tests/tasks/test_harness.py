"""lm-eval's tasks with our model behind them: what is measured, what is wrong with a task file."""

import logging
import os
import random

import numpy as np
import pytest

from jaxtrain.config import ConfigError, Failure
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.tasks import harness, task_model
from jaxtrain.tasks.task_model import TaskModel
from tests.tasks import harness_tasks

BYTES = ByteTokenizer()
MODEL = task_model.dry_model(TaskModel(BYTES.encode, BYTES.bos, 0, lambda pairs: [], lambda prompts: []))
MEASURES = {
    "chosen": ["acc", "acc_norm"], "likely": ["perplexity", "acc"], "rolling": ["word_perplexity", "bits_per_byte"],
    "written": ["exact_match"],
}  # fmt: skip


def test_without_the_package_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    with pytest.raises(ConfigError, match=r"^--eval_tasks=arc_easy: needs the package lm_eval.*\[lm-eval\]"):
        harness.open_tasks(["arc_easy"], "", "eval_tasks")
    with pytest.raises(ConfigError, match=r"^--eval_tasks_dir=nowhere: no such folder"):
        harness.open_tasks(["arc_easy"], "nowhere", "eval_tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return harness_tasks.write(tmp_path_factory.mktemp("harness"))


@pytest.fixture(scope="module")
def manager(folder):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    return harness.open_tasks(list(MEASURES), str(folder), "eval_tasks")


def test_a_task_is_tried_without_an_answer(manager):
    found = harness.try_tasks(list(MEASURES), manager, MODEL, "eval_tasks")
    assert {name: sorted(names) for name, names in found.items()} == {
        name: sorted(names) for name, names in MEASURES.items()
    }


def test_measures_are_those_of_the_models_answers(manager):
    def logps(pairs):
        right = [b"sea" in bytes(i for i in own if i < 256) for _, own in pairs]
        return [(np.full(len(own), -0.5 if yes else -2.0), np.full(len(own), yes)) for yes, (_, own) in
                zip(right, pairs, strict=True)]  # fmt: skip

    sea = MODEL._replace(logps=logps, generate=lambda prompts: ["w"] * len(prompts))
    found = harness.measure(["chosen", "likely", "written"], manager, sea)
    assert found["chosen"]["acc"] == pytest.approx(1 / 3) and found["likely"]["acc"] == pytest.approx(1 / 6)
    assert found["written"]["exact_match"] == pytest.approx(1 / 6)
    sizes = [1 + len(one) for one in harness_tasks.ANSWERS]
    logs = [
        -0.5 * n if one == "sea" else -2.0 * n for n, one in zip(sizes, harness_tasks.ANSWERS, strict=True)
    ]
    assert found["likely"]["perplexity"] == pytest.approx(np.exp(-np.mean(logs)))
    assert harness.measure(["likely"], manager, sea, limit=1)["likely"]["acc"] == 1


def test_the_process_is_left_as_it_was(manager, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "3")  # a process that is not the first has the numbers, too
    level, states = logging.getLogger("lm_eval").level, (random.getstate(), np.random.get_state()[1].tolist())
    assert harness.measure(["written"], manager, MODEL)["written"]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert os.environ["LOCAL_RANK"] == "3" and logging.getLogger("lm_eval").level == level
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{{question}}", "{{question | nothing}}", "the task chosen is wrong: .*nothing"),
        ("{{choices}}", "{{options}}", "the task chosen is wrong: "),
        ("metric: acc}", "metric: accc}", "the task chosen is wrong: .*accc"),
        ("test_split: test", "test_split: exam", "the task chosen is wrong: .*exam"),
    ],
)
def test_a_wrong_task_file_is_named_before_training(manager, tmp_path, old, new, message):
    folder = harness_tasks.write(tmp_path)
    text = (folder / "chosen.yaml").read_text()
    assert old in text
    (folder / "chosen.yaml").write_text(text.replace(old, new))
    with pytest.raises((ConfigError, Failure), match=message):
        ours = harness.open_tasks(["chosen"], str(folder), "eval_tasks")
        harness.try_tasks(["chosen"], ours, MODEL, "eval_tasks")


def test_a_task_that_is_not_there_is_named_with_its_neighbours(manager, folder):
    with pytest.raises(
        ConfigError, match=r"^--eval_tasks=chozen: lm-eval has no task chozen; did you mean chosen"
    ):
        harness.open_tasks(["chozen"], str(folder), "eval_tasks")
