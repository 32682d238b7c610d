"""The runs on the disk: names, what each says, and the list in a message on one that is not there."""

import json
import os
from pathlib import Path

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic
from jaxtrain.rl import held_out
from jaxtrain.train import run_list, workdir


def run(path, stage="sft", steps=300, saved=(), metrics=(), age=0, **facts):
    """A run's folder, last changed `age` seconds after a fixed time."""
    (path / "checkpoints").mkdir(parents=True)
    for step in saved:
        (path / "checkpoints" / str(step)).mkdir()
    record = {
        "stage": stage,
        "config": {"run": {"steps": steps}},
        "data": {},
        "resumed": [],
        "parent": {},
        **facts,
    }
    atomic.write_sealed(path / "config.json", record)
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in metrics))
    for file in ("config.json", "metrics.jsonl"):
        os.utime(path / file, (1.7e9 + age, 1.7e9 + age))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_list._note.cache_clear()
    return tmp_path


def test_a_name_is_looked_for_in_runs_and_in_the_lifecycle(here, capsys):
    run(here / "runs" / "lifecycle" / "sft", saved=(200, 300))
    for text in ("sft", "runs/sft"):
        assert workdir.split_step(text) == (Path("runs/lifecycle/sft"), None)
    assert workdir.split_step("runs/sft@200") == (Path("runs/lifecycle/sft"), 200)
    assert workdir.split_step(f"{here}/runs/sft") == (here / "runs" / "lifecycle" / "sft", None)
    assert "--init_from=runs/sft: the run is runs/lifecycle/sft\n" in capsys.readouterr().err
    run(here / "runs" / "sft")
    assert workdir.split_step("runs/sft") == (Path("runs/sft"), None)
    assert workdir.split_step("sft") == (Path("runs/sft"), None)
    run(here / "sft")
    assert workdir.split_step("sft") == (Path("sft"), None)
    assert workdir.split_step("ppo") == (Path("ppo"), None)


def test_what_a_run_says_of_itself(here):
    metrics = [
        {"step": 2, "judge/gold": 1.0},
        {"step": 3, "judge/gold": 1.5, "eval/loss": 0.5},
        {"step": 4, "loss": 9},
    ]
    parent = run(here / "base", "pretrain")
    one = run(here / "ppo", "ppo", 8, (2, 4), metrics, parent={"run": str(parent)}, reward_model="/r/rm@190")
    record = run_list.read(one)
    assert record.number == ("judge/gold", 1.5) and run_list.progress(record) == "4 of 8 steps"
    assert record.parents == (parent, Path("/r/rm")) and record.stage == "ppo"
    with (one / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "judge/gold": null}\n{"step": 6, "judge/go')
    assert run_list.read(one).number is None


def test_what_is_no_run_is_passed_over_and_what_is_damaged_is_not(here):
    (here / "export").mkdir()
    (here / "export" / "config.json").write_text('{"architectures": []}')
    (here / ".hidden" / "x").mkdir(parents=True)
    (here / ".hidden" / "x" / "config.json").write_text("{}")
    run(here / "damaged")
    (here / "damaged" / "config.json").write_text('{"sta')
    (found,) = run_list.runs(here)
    assert found.path.name == "damaged" and "config.json cannot be read" in run_list.progress(found)


def test_a_wrong_name_lists_the_runs_newest_first(here):
    names = ["pretrain", "sft", *(f"old-{i}" for i in range(8))]
    for age, name in enumerate(names):
        run(
            here / "runs" / "lifecycle" / name,
            saved=(300,),
            metrics=[{"step": 300, "judge/gold": 1}],
            age=-age,
        )
    with pytest.raises(ConfigError) as caught:
        workdir.read_run(Path("runs/pretrian"))
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "--init_from=runs/pretrian is not a run: there is no such folder; did you mean runs/lifecycle/pretrain? "
        "The runs that there are, newest first:"
    )
    assert lines[1].split() == "runs/lifecycle/pretrain sft 300 of 300 steps judge/gold 1".split()
    assert lines[2].split()[0] == "runs/lifecycle/sft" and lines[-1] == "  and 2 more: ./launch/run runs"
    assert len(lines) == 2 + run_list.MOST


def test_without_runs_there_is_no_list(here):
    (here / "other").mkdir()
    with pytest.raises(ConfigError, match=r"there is no such folder$"):
        workdir.read_run(Path("nowhere"))
    with pytest.raises(ConfigError, match=r"it has no config\.json$"):
        workdir.read_run(Path("other"))


@pytest.mark.parametrize("stage", ["ppo", "grpo", "online_dpo"])
def test_a_run_without_a_world_is_compared_by_its_held_out_scores(stage):
    values = {f"eval/{held_out.SCORES}": 0.5, "objective/scores": 0.7}
    assert run_list.main_number(stage, values) == ("eval/scores", 0.5)
    assert run_list.main_number(stage, values | {"judge/gold": 1.0}) == ("judge/gold", 1.0)
