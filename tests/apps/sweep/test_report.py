"""The ranking of a sweep, its table, and its charts."""

import json

import pytest

from jaxtrain.apps.sweep import report, runner
from jaxtrain.apps.sweep.runner import SweepRun
from jaxtrain.apps.sweep.trials import SweepTrial
from jaxtrain.files import atomic


def made(folder, trial, seed, value, name="eval/loss"):
    run = SweepRun(trial, seed, folder / trial.name / f"seed{seed}", ["python", trial.name, str(seed)])
    run.path.mkdir(parents=True)
    rows = [{"step": 1, name: 9.0}, {"step": 2, name: value}, {"step": 2, "loss": 1.0, "lr": 0.1}]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    atomic.write_sealed(run.record, {"command": run.command[1:], "seconds": 1.0})
    return run


@pytest.fixture
def runs(tmp_path):
    low, high = (
        SweepTrial("low", {"lr": "1e-4", "optimizer": "adamw"}),
        SweepTrial("high", {"lr": "1e-2", "optimizer": "adamw"}),
    )
    broken = SweepTrial("broken", {"lr": "1", "optimizer": "adamw"})
    return [
        made(tmp_path, low, 0, 3.0), made(tmp_path, high, 0, 2.0), made(tmp_path, broken, 0, None),
        made(tmp_path, low, 1, 3.5), made(tmp_path, high, 1, 1.0), made(tmp_path, broken, 1, 5.0),
    ]  # fmt: skip


def ranked(runs, mode="min"):
    runs[-1].log.write_text("step 1\nerror: the loss is not finite\n\n")
    return report.result(runs, "eval/loss", mode, {runs[-1].path: 1})


def test_combinations_are_ranked_by_the_mean_of_their_seeds(runs):
    found = ranked(runs)
    assert [one["name"] for one in found["trials"]] == ["high", "low", "broken"]
    high, _, broken = found["trials"]
    assert high["values"] == {"0": 2.0, "1": 1.0} and high["mean"] == 1.5
    assert high["deviation"] == pytest.approx(0.5**0.5)
    assert broken["mean"] is None and broken["failed"]["1"] == "status 1: error: the loss is not finite"
    assert [one["name"] for one in ranked(runs, "max")["trials"]] == ["low", "high", "broken"]


def test_the_table_has_every_combination_and_why_a_run_failed(runs):
    lines = report.lines(ranked(runs))
    assert lines[0].split() == ["lr", "optimizer", "eval/loss", "±", "seeds"]
    assert lines[1].split() == ["1e-2", "adamw", "1.5", "0.71", "2"]
    assert lines[3].split()[-4:] == ["failed", "0", "of", "2"]
    assert lines[-1] == "broken, seed 1: status 1: error: the loss is not finite"


def test_a_chart_for_each_flag_with_several_numbers(runs, tmp_path):
    found = ranked(runs)
    (chart,) = report.figures(found)
    (line,) = chart["series"]
    assert (line["x"], line["y"]) == ([1e-4, 1e-2], [3.25, 1.5])
    assert (line["low"], line["high"]) == ([3.0, 1.0], [3.5, 2.0]) and line["label"] == "optimizer=adamw"
    report.write(found, tmp_path)
    page = (tmp_path / report.REPORT).read_text(encoding="utf-8")
    assert "eval/loss by lr" in page and "the loss is not finite" in page and "1.5" in page
    assert json.loads((tmp_path / report.RESULT).read_text()) == json.loads(json.dumps(found))


def test_random_draws_are_one_line(tmp_path):
    drawn = [
        made(tmp_path, SweepTrial(f"t{i}", {"lr": str(i / 10), "warmup": str(i)}), 0, float(i))
        for i in range(1, 12)
    ]
    charts = report.figures(report.result(drawn, "eval/loss", "min", {}))
    assert [chart["title"] for chart in charts] == ["eval/loss by lr", "eval/loss by warmup"]
    assert [len(chart["series"]) for chart in charts] == [1, 1] and len(charts[0]["series"][0]["x"]) == 11


def test_an_unfinished_run_has_no_value(tmp_path):
    run = made(tmp_path, SweepTrial("a", {"lr": "1"}), 0, 2.0)
    run.record.unlink()
    (one,) = report.result([run], "eval/loss", "min", {})["trials"]
    assert one["mean"] is None and not runner.is_finished(run)
