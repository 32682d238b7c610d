"""The last lines of a run: its numbers, what is wrong with them, and the commands that follow."""

from types import SimpleNamespace

import pytest

from jaxtrain.stages import run_summary
from jaxtrain.train.time_split import TimeSplit
from tests.stages.test_loss_diagnosis import metrics
from tests.train.test_run_list import here, run  # noqa: F401


@pytest.fixture
def summary(here, capsys):  # noqa: F811
    def printed(rows, stage="dpo", primary=True):
        groups = {"data": {"data": "tinytown:x"}, "model": {"init_from": "runs/sft"}, "run": {"steps": 20}}
        path = run(here / "runs" / stage, stage, config=groups, metrics=rows)
        session = SimpleNamespace(path=path, primary=primary)
        run_summary.show(
            session, 20, {"loss": 0.61, "rewards/accuracies": 0.7}, TimeSplit(1.0, None), 90.0, False
        )
        return capsys.readouterr().out.splitlines()

    return printed


def test_faults_stand_between_the_numbers_and_what_follows(summary):
    lines = summary(metrics("rewards/chosen", [-0.1 * i for i in range(20)]))
    heads = [line.split()[0] for line in lines if not line.startswith("    ")]
    assert heads[0] == "finished" and heads[-1] == "or"
    at = lines.index("what the metrics say")
    assert [line.split()[0] for line in lines[1:at]] == ["held-out", "accuracy", "time", "time", "checkpoint"]
    said = [line for line in lines[at + 1 :] if line.startswith("  ")]
    assert "less likely" in " ".join(said) and all(len(line) <= 80 for line in said)
    assert lines[at + len(said) + 1].startswith("next  ./launch/run evaluate")


def test_a_run_without_faults_says_nothing_of_them(summary):
    lines = summary(metrics("rewards/chosen", [0.1] * 20))
    assert not any("metrics" in line for line in lines) and lines[0] == "finished 20 steps"


def test_only_the_first_host_prints(summary):
    assert summary([], primary=False) == []
