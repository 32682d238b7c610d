"""The commands that a summary ends with: their flags are real, and their paths those of the run."""

import importlib
import re
import shlex

import pytest

from jaxtrain import flags
from jaxtrain.stages import next_commands
from tests.source import ROOT
from tests.train.test_run_list import here, run  # noqa: F401


def finished(path, stage, data="tinytown:x", init_from="runs/sft", **loss):
    groups = {"data": {"data": data}, "model": {"init_from": init_from}, "loss": loss, "run": {"steps": 4}}
    return next_commands.lines(run(path, stage, config=groups))


def parsed(line):
    """The config of a command line: its flags are those of its command."""
    name, *arguments = shlex.split(line.split("./launch/run ")[1])
    launched = re.search(r"flags\.launch\((\w+), main", (ROOT / "experiments" / f"{name}.py").read_text())
    return flags.from_flags(getattr(importlib.import_module(f"experiments.{name}"), launched[1]), arguments)


@pytest.mark.parametrize("stage", next_commands.NEXT)
@pytest.mark.parametrize("data", ["tinytown:x", "jsonl:mine.jsonl"])
def test_every_command_can_be_read(here, stage, data):  # noqa: F811
    lines = finished(here / "runs" / "a run", stage, data, teacher="runs/ppo")
    assert lines and all(parsed(line) is not None for line in lines)
    assert all("'runs/a run'" in line for line in lines)
    own = [line for line in lines if re.search(r"run (sft|reward|dpo|ppo|evaluate|distill) ", line)]
    assert all(("=jsonl:" in line) == (data != "tinytown:x") for line in own)


def test_a_reward_model_is_named_where_it_is_and_so_is_what_it_started_from(here):  # noqa: F811
    """--data without --workdir names the folder after the data, and a run of lifecycle lies in its folder."""
    run(here / "runs" / "lifecycle" / "sft")
    lines = finished(here / "runs" / "reward-votes", "reward")
    assert lines == ["next  ./launch/run ppo --init_from=runs/lifecycle/sft --reward_model=runs/reward-votes"]
    (line,) = finished(here / "runs" / "two", "reward", init_from="hf:org/name")
    assert "--init_from=hf:org/name " in line


def test_what_does_not_answer_has_no_next_command(here):  # noqa: F811
    groups = {"data": {"data": "tinytown:x", "objective": "masked"}, "model": {}, "run": {"steps": 4}}
    assert next_commands.lines(run(here / "masked", "pretrain", config=groups)) == []
    lines = finished(here / "student", "distill", teacher="data")
    assert lines == ["next  ./launch/run sample --init_from=student"]
