"""Shared runs: a command with the same flags and parents runs once, and again where its result is gone."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxtrain.apps.papers import shared_runs
from jaxtrain.apps.papers.shared_runs import SharedRuns
from jaxtrain.config import Failure
from jaxtrain.files import atomic


class Children:
    """Writes what a command would, and remembers it; --fail ends with status 3."""

    def __init__(self):
        self.commands = []

    def call(self, command, stdout, stderr):
        self.commands.append(command[3:])
        given = dict(flag[2:].split("=", 1) for flag in command[4:] if "=" in flag)
        if "--fail" in command:
            stdout.write("Traceback\nwhat went wrong\n")
            stdout.flush()
            return 3
        if "out" in given:
            with open(given["out"], "x") as file:  # as `sample` does, which writes new files only
                file.write(json.dumps({"prompt": "a", "completion": str(len(self.commands))}) + "\n")
        else:
            Path(given["workdir"]).mkdir(exist_ok=True)
        return 0


@pytest.fixture
def children():
    return Children()


@pytest.fixture
def runs(tmp_path, children):
    return SharedRuns(tmp_path, 4, "cache", children)


def test_the_same_flags_run_once(runs, children, tmp_path):
    base = runs.train("pretrain", "--steps=5")
    assert base.parent == tmp_path and children.commands == [
        ["experiments.pretrain", "--steps=5", f"--workdir={base}", "--seed=4", "--cache_dir=cache"]
    ]
    assert runs.train("pretrain", "--steps=5") == base and len(children.commands) == 1
    assert runs.train("pretrain", "--steps=6") != base and len(children.commands) == 2
    other = SharedRuns(tmp_path, 5, "cache", children)
    assert other.train("pretrain", "--steps=5") != base and len(children.commands) == 3


def test_the_time_of_runs_that_were_there_counts_once(runs, children, tmp_path):
    run = runs.train("pretrain")
    runs.sample(run, "tinytown:prompts")
    runs.train("pretrain")
    assert runs.seconds_before() == 0  # these ran within this object's own time
    records = [atomic.read_sealed(file) for file in tmp_path.glob(f"*.{shared_runs.DONE}")]
    assert len(records) == 2 and all(record["seconds"] > 0 for record in records)
    later = SharedRuns(tmp_path, 4, "cache", children)
    for _ in range(2):
        later.sample(later.train("pretrain"), "tinytown:prompts")
    assert later.seconds_before() == pytest.approx(sum(record["seconds"] for record in records))


def test_names_have_the_flags_of_the_parents_and_not_the_place(runs, children, tmp_path):
    first = runs.train("sft", f"--init_from={runs.train('pretrain', '--steps=5')}")
    second = runs.train("sft", f"--init_from={runs.train('pretrain', '--steps=6')}")
    assert first != second
    moved = SharedRuns(tmp_path / "moved", 4, "cache", children)
    assert moved.train("sft", f"--init_from={moved.train('pretrain', '--steps=5')}").name == first.name


def test_completions_are_sampled_once_and_again_where_they_are_damaged(runs, children):
    run = runs.train("sft")
    assert runs.sample(run, "tinytown:prompts") == runs.sample(run, "tinytown:prompts")
    assert len(children.commands) == 2
    (file,) = runs.folder.glob("*.jsonl")
    file.write_text(file.read_text()[:-3])
    assert runs.sample(run, "tinytown:prompts") == [{"prompt": "a", "completion": "3"}]
    file.unlink()
    assert runs.sample(run, "tinytown:prompts")[0]["completion"] == "4"
    assert runs.sample(run, "tinytown:prompts", max_new=9)[0]["completion"] == "5"


@pytest.mark.parametrize("damage", ["{", "[]", "{}"])
def test_a_damaged_record_is_of_a_run_that_has_not_ended(runs, children, damage):
    runs.train("sft")
    (record,) = runs.folder.glob(f"*.{shared_runs.DONE}")
    record.write_text(damage)
    runs.train("sft")
    assert len(children.commands) == 2


def test_a_run_whose_folder_is_gone_runs_again(runs, children):
    runs.train("sft").rmdir()
    runs.train("sft")
    assert len(children.commands) == 2


def test_a_command_that_fails_is_named_with_its_last_lines(runs, children):
    with pytest.raises(Failure, match=r"(?s)seed 4, sft ended with status 3.*what went wrong.*\.log\.txt"):
        runs.train("sft", "--fail")
    with pytest.raises(Failure):
        runs.train("sft", "--fail")
    assert len(children.commands) == 2


def test_two_threads_share_one_run(runs, children):
    with ThreadPoolExecutor(4) as pool:
        assert len({*pool.map(lambda _: runs.train("pretrain"), range(8))}) == 1
    assert len(children.commands) == 1
