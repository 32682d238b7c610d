"""Runs of a sweep: what is finished stays so, failures are named, GPUs are divided."""

import sys

import pytest

from jaxtrain.apps.sweep import runner
from jaxtrain.apps.sweep.config import SweepFlags
from jaxtrain.apps.sweep.runner import SweepRun
from jaxtrain.apps.sweep.trials import SweepTrial
from jaxtrain.config import ConfigError

WRITES = "import os, sys; print(os.environ.get('CUDA_VISIBLE_DEVICES')); sys.exit(int(sys.argv[1]))"


def run(folder, name, status=0):
    return SweepRun(
        SweepTrial(name, {"lr": name}),
        0,
        folder / name / "seed0",
        [sys.executable, "-c", WRITES, str(status)],
    )


def test_what_is_finished_is_known_and_what_failed_is_named(tmp_path):
    good, bad, shown = run(tmp_path, "a"), run(tmp_path, "b", 3), []
    failed = runner.train(
        [good, bad], [{}, {}], lambda one, status, seconds: shown.append((one.trial.name, status))
    )
    assert failed == {bad.path: 3} and sorted(shown) == [("a", 0), ("b", 3)]
    assert runner.is_finished(good) and not runner.is_finished(bad)
    assert not runner.is_finished(good._replace(command=[*good.command, "--lr=2"])), "another command"
    good.record.write_text(good.record.read_text()[:-9])
    assert not runner.is_finished(good), "a damaged record"


def test_runs_at_once_have_their_own_gpus(tmp_path):
    runs = [run(tmp_path, name) for name in "abcd"]
    runner.train(runs, [{runner.VISIBLE: "0,2"}, {runner.VISIBLE: "1"}], lambda *_: None)
    used = [one.log.read_text().strip() for one in runs]
    assert {*used} <= {"0,2", "1"}
    assert runner.last_line(runs[0]) == used[0]


def test_a_stop_ends_the_runs(tmp_path):
    slow = run(tmp_path, "slow")._replace(
        command=[sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
    )

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.train([run(tmp_path, "quick"), slow], [{}, {}], stop)
    assert not runner.is_finished(slow)


@pytest.mark.parametrize(
    ("jobs", "devices", "wanted"),
    [
        (0, [], [{}]), (3, [], [{}] * 3),
        (0, ["0", "1"], [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (2, ["0", "1", "2"], [{"CUDA_VISIBLE_DEVICES": "0,2"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (1, ["4", "5"], [{"CUDA_VISIBLE_DEVICES": "4,5"}]),
    ],
)  # fmt: skip
def test_shares_of_the_devices(jobs, devices, wanted):
    assert runner.shares(jobs, devices) == wanted


def test_two_runs_cannot_share_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert runner.gpus() == ["GPU-a", "GPU-b"]
    with pytest.raises(ConfigError, match=r"--jobs=3: there are 2 GPUs"):
        runner.shares(3, runner.gpus())


def test_all_combinations_come_before_the_second_seed(tmp_path):
    sweep = SweepFlags(command="sft", grid="lr=1|2", repeats=2)
    found = [SweepTrial("a", {"lr": "1"}), SweepTrial("b", {"lr": "2"})]
    made = runner.runs(sweep, found, tmp_path)
    assert [(one.trial.name, one.seed) for one in made] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert made[3].command[2:] == [
        "-m", "experiments.sft", "--lr=2", "--seed=1", f"--workdir={tmp_path}/b/seed1"
    ]  # fmt: skip
