"""CORE: prompts as they are read by hand, centred accuracies of models whose answers are known, wrong bundles."""

import re

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.data.tokenizer import ByteTokenizer
from jaxtrain.tasks import core
from jaxtrain.tasks.task_model import TaskModel
from tests.tasks import bundles

BYTES = ByteTokenizer()


@pytest.fixture
def folder(tmp_path):
    return bundles.write(tmp_path / "bundle")


@pytest.fixture
def tasks(folder):
    return {task.label: task for task in core.open_bundle(str(folder), "eval_tasks")}


def model(right):
    """A model for which each byte of a continuation has the log-probability `right(context, continuation)`."""

    def logps(pairs):
        texts = [tuple(bytes(i for i in ids if i < 256).decode() for ids in pair) for pair in pairs]
        values = [right(*pair) for pair in texts]
        return [
            (np.full(len(own), x, np.float32), np.full(len(own), x > -1))
            for x, (_, own) in zip(values, pairs, strict=True)
        ]

    return TaskModel(BYTES.encode, BYTES.bos, 0, logps, lambda prompts: [])


def test_prompts_stand_behind_their_examples(tasks):
    piqa = tasks["piqa"]
    one, two = core.example_numbers(piqa, 0)
    said = "".join(f"Q{i}\nAnswer: {('red', 'blue sea')[i % 2]}\n" for i in (one, two))
    assert core.prompts(piqa, 0) == [(f"{said}Q0\nAnswer: ", "red"), (f"{said}Q0\nAnswer: ", "blue sea")]
    assert core.prompts(tasks["winograd"], 1) == [("The ship ", "went to sea"), ("The cat ", "went to sea")]
    (pair,) = core.prompts(tasks["jeopardy"], 2)
    example = {0: "the ship went to sea\n", 1: "saw a white whale\n"}
    assert pair == (f"{example[core.example_numbers(tasks['jeopardy'], 2)[0]]}the dark ", "water")


def test_examples_are_other_questions_and_the_same_each_time(tasks):
    for number in range(4):
        chosen = core.example_numbers(tasks["piqa"], number)
        assert len(set(chosen)) == 2 and number not in chosen
        assert chosen == core.example_numbers(tasks["piqa"], number)
    assert core.example_numbers(tasks["piqa"]._replace(shots=9), 1) != [] and sorted(
        core.example_numbers(tasks["piqa"]._replace(shots=9), 1)
    ) == [0, 2, 3], "all there are"


def test_guessing_is_0_and_knowing_is_1(tasks):
    knows = model(lambda context, own: -0.5 if "cat" not in context[-8:] and right(context, own) else -2.0)

    def right(context, own):
        asked = re.search(r"Q(\d)\nAnswer:$", context)
        return not asked or own.strip() == ("red", "blue sea")[int(asked.group(1)) % 2]

    assert core.measure(list(tasks.values()), knows) == {
        "core": 1.0, "core/piqa": 1.0, "core/winograd": 1.0, "core/jeopardy": 1.0,
    }  # fmt: skip
    red = model(lambda context, own: -0.5 if own.strip() in ("red", "sea") else -2.0)
    found = core.measure(list(tasks.values()), red)
    assert found["core/piqa"] == 0, "half of the answers are red, as half of the guesses"
    assert found["core/winograd"] == 1, "of equal ones the first"
    assert found["core/jeopardy"] == pytest.approx((1 / 2 + 0) / 2), "one of two in a, none in b"
    assert found["core"] == pytest.approx((0 + 1 + 1 / 4) / 3)
    assert list(found) == core.names(list(tasks.values()))


def test_a_choice_is_scored_per_token(tasks):
    long = model(lambda context, own: -1.0 - 0.01 * len(own))  # sums would prefer the short one by far more
    slightly = model(lambda context, own: -1.0 if len(own) > 5 else -1.1)  # and here the short one
    assert core.task_accuracy(tasks["piqa"], long) == core.task_accuracy(tasks["piqa"], slightly) == 0.5
    blue = tasks["piqa"]._replace(records=[{"query": "Q", "choices": ["red", "blue sea"], "gold": 1}])
    assert core.task_accuracy(blue, slightly) == 1 and core.task_accuracy(blue, long) == 0


def test_a_limit_takes_questions_from_everywhere(tasks):
    chosen = core.question_numbers(1000, 10)
    assert len(chosen) == 10 and chosen == sorted(set(chosen)) and chosen[-1] > 500
    assert core.question_numbers(3, 5) == core.question_numbers(3, 0) == [0, 1, 2]
    asked = []
    core.task_accuracy(tasks["piqa"], model(lambda context, own: asked.append(own) or -1.0), limit=2)
    assert len(asked) == 4


def test_dclms_list_has_22_tasks():
    assert len(core.TASKS) == len(set(core.TASKS)) == 22 and list(core.TASKS) == sorted(core.TASKS)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("core.yaml", "icl_tasks:", "tasks:", r"core\.yaml: it has no list icl_tasks"),
        ("core.yaml", "icl_tasks:", "icl_tasks: [", r"core\.yaml: it is no YAML"),
        ("core.yaml", "schema", "schemes", r"task winograd: icl_task_type=schemes; it is one of multiple_choice"),
        ("core.yaml", "num_fewshot: [1]", "num_fewshot: [-1]", r"task jeopardy: num_fewshot=-1; write one number"),
        ("core.yaml", "num_fewshot: [1]", "num_fewshot: [0, 5]", r"num_fewshot=\[0, 5\]; write one number"),
        ("core.yaml", "qa/piqa", "qa/pica", r"task piqa: its data are not there: .*eval_data/qa/pica\.jsonl"),
        ("core.yaml", "label: jeopardy", "label: piqa", r"the task piqa stands twice"),
        ("core.yaml", "  dataset_uri: winograd.jsonl\n", "", r"task winograd: dataset_uri is missing"),
        ("eval_meta_data.csv", "winograd,", "winogrand,", r"no row of the task winograd, which core\.yaml lists"),
        ("eval_meta_data.csv", "3,0,,x", "3,none,,x", r"meta_data\.csv:4: it needs the columns"),
        ("eval_meta_data.csv", "3,0,,x", "3,100,,x", r"meta_data\.csv:4: Random baseline=100: percents below"),
        ("eval_data/winograd.jsonl", "{", "", r"winograd\.jsonl:1: it is no JSON"),
        ("eval_data/winograd.jsonl", '"gold": 0', '"gold": 2', r"winograd\.jsonl:1: gold=2 of 2 options"),
        ("eval_data/qa/piqa.jsonl", '"gold": 1', '"gold": "1"', r"qa/piqa\.jsonl:2: the field gold of a multiple"),
        ("eval_data/qa/piqa.jsonl", '["red", ', "[", r"qa/piqa\.jsonl:1: the field choices .* two texts or more"),
        ("eval_data/jeopardy.jsonl", '"sea"', '""', r"jeopardy\.jsonl:1: an empty answer"),
        ("eval_data/jeopardy.jsonl", '"context"', '"question"', r"jeopardy\.jsonl:1: the field context of a lang"),
    ],
)  # fmt: skip
def test_a_wrong_bundle_is_named_with_its_place(folder, file, old, new, message):
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        core.open_bundle(str(folder), "eval_tasks")


def test_missing_files_are_named(folder, tmp_path):
    for where, message in (
        ("", "--eval_tasks=core: name a folder .* by --eval_tasks_dir$"),
        (str(tmp_path), f"by --eval_tasks_dir; {tmp_path} has no core.yaml"),
    ):
        with pytest.raises(ConfigError, match=message):
            core.open_bundle(where, "eval_tasks")
    (folder / "eval_data" / "winograd.jsonl").write_text("\n\n")
    with pytest.raises(ConfigError, match=r"winograd\.jsonl: it has no questions"):
        core.open_bundle(str(folder), "eval_tasks")
    (folder / "eval_meta_data.csv").unlink()
    with pytest.raises(ConfigError, match=r"eval_meta_data\.csv: it is not there"):
        core.open_bundle(str(folder), "eval_tasks")
