"""CORE, the metric of DCLM (section 3.5 and appendix G, arXiv:2406.11794): the mean centred accuracy of 22 tasks.

A task's accuracy a becomes (a - r) / (1 - r), r that of guessing, so that 0 is chance and 1 is all right. The tasks are
read from a folder with DCLM's evaluation bundle: `core.yaml` (the list), `eval_meta_data.csv` (chance) and `eval_data/`
(JSON lines). A question stands behind its task's number of worked examples, and is of one of three types:

- multiple_choice: each choice behind the query; the likeliest per token is the answer.
- schema: the continuation behind each context; likewise.
- language_modeling: right where every token of the continuation is the likeliest one.
"""

import csv
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.config import ConfigError
from jaxtrain.tasks.task_model import TaskModel, tokenize_pair

NAME = "core"
LIST, CHANCE, DATA = "core.yaml", "eval_meta_data.csv", "eval_data"
TASKS = (
    "agi_eval_lsat_ar arc_challenge arc_easy bigbench_cs_algorithms bigbench_dyck_languages "
    "bigbench_language_identification bigbench_operators bigbench_qa_wikidata bigbench_repeat_copy_logic boolq "
    "commonsense_qa copa coqa hellaswag hellaswag_zeroshot jeopardy lambada_openai openbook_qa piqa squad winograd "
    "winogrande"
).split()
SEED = 1234  # of the examples before a question; with its number it decides them
FIELDS = {  # type -> the fields of a record
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}


class CoreTask(NamedTuple):
    """A task of the bundle. Between query and answer stands `delimiter`, between examples `separator`."""

    label: str
    kind: str
    shots: int
    delimiter: str
    separator: str
    prelude: str  # text before the first example
    chance: float  # accuracy of guessing, 0 to 1
    by_category: bool  # accuracy is the mean over categories
    records: Sequence[Mapping[str, Any]]


def open_bundle(folder: str, flag: str) -> list[CoreTask]:
    """The tasks of the bundle in a folder, which --`flag`_dir names. Raises ConfigError for what is wrong with it."""
    root = Path(folder).expanduser()
    if not folder or not (root / LIST).is_file():
        raise ConfigError(
            f"--{flag}={NAME}: name a folder with DCLM's evaluation bundle ({LIST}, {CHANCE}, {DATA}/) by "
            f"--{flag}_dir" + (f"; {folder} has no {LIST}" if folder else "")
        )
    chances = _chances(root / CHANCE)
    tasks = [_task(root, entry, chances) for entry in _entries(root / LIST)]
    if twice := {one.label for one in tasks if sum(one.label == other.label for other in tasks) > 1}:
        raise ConfigError(f"{root / LIST}: the task {min(twice)} stands twice")
    return tasks


def names(tasks: Sequence[CoreTask]) -> list[str]:
    """The names of what `measure` returns."""
    return [NAME, *(f"{NAME}/{one.label}" for one in tasks)]


def measure(tasks: Sequence[CoreTask], model: TaskModel, limit: int = 0) -> dict[str, float]:
    """{core: CORE, core/TASK: a task's centred accuracy}, of at most `limit` questions of a task (0: all)."""
    centred = {}
    for task in tasks:
        accuracy = task_accuracy(task, model, limit)
        centred[f"{NAME}/{task.label}"] = (accuracy - task.chance) / (1 - task.chance)
    return {NAME: float(np.mean(list(centred.values()))), **centred}


def task_accuracy(task: CoreTask, model: TaskModel, limit: int = 0) -> float:
    """The share of questions that are answered right; the mean over categories where the task has them."""
    chosen = question_numbers(len(task.records), limit)
    options = [prompts(task, i) for i in chosen]
    scores = iter(model.logps([tokenize_pair(model, *pair) for pairs in options for pair in pairs]))
    right: dict[str, list[bool]] = {}
    for i, pairs in zip(chosen, options, strict=True):
        own = [next(scores) for _ in pairs]
        record = task.records[i]
        category = str(record.get("category", "")) if task.by_category else ""
        if task.kind == "language_modeling":
            answer = bool(own[0][1].all())
        else:
            answer = int(np.argmax([logps.mean(dtype=np.float64) for logps, _ in own])) == record["gold"]
        right.setdefault(category, []).append(answer)
    return float(np.mean([np.mean(each) for each in right.values()]))


def question_numbers(count: int, limit: int) -> list[int]:
    """The numbers of at most `limit` questions, spread by a fixed shuffle, as files may be sorted; 0: all."""
    if not limit or limit >= count:
        return list(range(count))
    return sorted(np.random.Generator(np.random.Philox(key=SEED)).permutation(count)[:limit].tolist())


def prompts(task: CoreTask, number: int) -> list[tuple[str, str]]:
    """(context, continuation) of each option of a question, behind its examples."""
    record = task.records[number]
    before = task.prelude + "".join(_example(task, task.records[i]) for i in example_numbers(task, number))
    if task.kind == "multiple_choice":
        return [(before + record["query"] + task.delimiter, choice) for choice in record["choices"]]
    if task.kind == "schema":
        own = record["continuation"]
        return [(before + context + task.delimiter, own) for context in record["context_options"]]
    return [(before + record["context"].strip() + task.delimiter, record["continuation"])]


def example_numbers(task: CoreTask, number: int) -> list[int]:
    """The records that stand before a question as examples: other ones than itself, the same in every evaluation."""
    others = [i for i in range(len(task.records)) if i != number]
    return random.Random(SEED + number).sample(others, min(task.shots, len(others)))


def _example(task: CoreTask, record: Mapping[str, Any]) -> str:
    if task.kind == "multiple_choice":
        parts = record["query"], record["choices"][record["gold"]]
    elif task.kind == "schema":
        parts = record["context_options"][record["gold"]], record["continuation"]
    else:
        parts = record["context"].strip(), record["continuation"]
    return task.delimiter.join(parts) + task.separator


def _entries(path: Path) -> list[Mapping[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: it is no YAML: {error}") from error
    entries = content.get("icl_tasks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(one, dict) for one in entries):
        raise ConfigError(f"{path}: it has no list icl_tasks of tasks")
    return entries


def _task(root: Path, entry: Mapping[str, Any], chances: Mapping[str, float]) -> CoreTask:
    path, where = root / LIST, f"{root / LIST}: task {entry.get('label', '?')}"
    for name in ("label", "dataset_uri", "icl_task_type"):
        if not isinstance(entry.get(name), str):
            raise ConfigError(f"{where}: {name} is missing, or is no text")
    kind, label = entry["icl_task_type"], entry["label"]
    if kind not in FIELDS:
        raise ConfigError(f"{where}: icl_task_type={kind}; it is one of {', '.join(FIELDS)}")
    shots = entry.get("num_fewshot", 0)
    shots = shots[0] if isinstance(shots, list) and len(shots) == 1 else shots
    if not isinstance(shots, int) or shots < 0:
        raise ConfigError(f"{where}: num_fewshot={shots}; write one number, 0 or more")
    if label not in chances:
        raise ConfigError(f"{root / CHANCE}: it has no row of the task {label}, which {path.name} lists")
    places = [root / DATA / entry["dataset_uri"], root / entry["dataset_uri"]]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ConfigError(f"{where}: its data are not there: {places[0]}")
    return CoreTask(
        label, kind, shots, str(entry.get("continuation_delimiter", " ")),
        str(entry.get("example_delimiter", "\n")), str(entry.get("prompt_string", "")), chances[label],
        bool(entry.get("has_categories", False)), _records(file, kind),
    )  # fmt: skip


def _chances(path: Path) -> dict[str, float]:
    """Task -> accuracy of guessing, 0 to 1, from the column of percents `Random baseline`."""
    if not path.is_file():
        raise ConfigError(f"{path}: it is not there; it has the accuracy of guessing of each task")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chances = {}
    for number, row in enumerate(rows, 2):
        try:
            chance = float(row["Random baseline"]) / 100
            label = row["Eval Task"]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}:{number}: it needs the columns Eval Task and Random baseline"
            ) from error
        if not 0 <= chance < 1:
            raise ConfigError(
                f"{path}:{number}: Random baseline={row['Random baseline']}: percents below 100"
            )
        chances[label] = chance
    return chances


def _records(path: Path, kind: str) -> list[Mapping[str, Any]]:
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number}: it is no JSON: {error}") from error
        if problem := _problem(record, kind):
            raise ConfigError(f"{path}:{number}: {problem}")
        records.append(record)
    if not records:
        raise ConfigError(f"{path}: it has no questions")
    return records


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(one, str) for one in value)


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "gold": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a number"),
    "choices": (_is_texts, "a list of two texts or more"),
    "context_options": (_is_texts, "a list of two texts or more"),
}


def _problem(record: Any, kind: str) -> str:
    """What is wrong with a record; empty: nothing."""
    if not isinstance(record, dict):
        return "it is no JSON object"
    for name in FIELDS[kind]:
        right, what = _CHECKS.get(name, (lambda value: isinstance(value, str), "a text"))
        if name not in record or not right(record[name]):
            return f"the field {name} of a {kind} question is {what}"
    options = record.get("choices") if kind == "multiple_choice" else record.get("context_options")
    if "gold" in FIELDS[kind] and not 0 <= record["gold"] < len(options):
        return f"gold={record['gold']} of {len(options)} options"
    if any(not one for one in [*record.get("choices", ()), record.get("continuation", "x")]):
        return "an empty answer"
    return ""
