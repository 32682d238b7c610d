"""--track, --profile and the summary's time split and goodput, in a run and where it resumes."""

import re
import shutil

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.train import trackers
from jaxtrain.train.trackers import Tracker
from tests.runs import call

FLAGS = ("--steps=6", "--checkpoint_every=3", "--keep=9", "--log_every=2", "--eval_every=3", "--warmup=0")


@pytest.fixture
def calls(monkeypatch):
    """What a tracker gets, in place of Weights & Biases."""
    got = []
    monkeypatch.setattr(trackers, "require", lambda names: None)
    monkeypatch.setitem(
        trackers._OPEN, "wandb", lambda run: Tracker(
            lambda step, values: got.append((step, values)), lambda *text: got.append(text),
            lambda: got.append("closed"), f"{run.name} with {run.flags['steps']} steps, {run.id}",
        ),
    )  # fmt: skip
    return got


def test_a_run_is_tracked_profiled_and_says_where_its_time_went(bench, tmp_path, calls):
    where = tmp_path / "run"
    flags = (*FLAGS, f"--workdir={where}", "--track=wandb", "--profile=4:2")
    said = bench.main(*flags)
    line = re.search(r"wandb: run with 6 steps, (\w{8})", said)
    assert calls[-1] == "closed"
    written = [one for one in calls[:-1] if len(one) == 2]
    assert {"train/loss", "train/lr", "time/tokens_per_s", "eval/loss"} <= {
        name for _, row in written for name in row
    }
    assert sorted({step for step, _ in written}) == [2, 3, 4, 6]
    assert any(one[1] == "samples" for one in calls[:-1] if len(one) == 3)
    assert f"profile of steps 4 to 5 in {where / 'profile'}" in said
    assert [*(where / "profile").rglob("*.xplane.pb")]
    split = re.search(r"time split +(.*)", said)[1]
    assert {"step", "evaluation", "start"} <= set(
        re.findall(r"([a-z]+) \d+%", split)
    ) and "goodput" not in said

    shutil.rmtree(where / "checkpoints" / "6")
    calls.clear()
    said = bench.main(*flags)
    assert "resuming from step 3 of 6" in said and re.search(r"goodput +\d+% of the \d+\.\d min since", said)
    assert f"wandb: run with 6 steps, {line[1]}" in said, "the same run of the tracker"
    assert f"profile of steps 4 to 5 in {where / 'profile'}" in said
    shutil.rmtree(where / "checkpoints" / "6")
    said = bench.main(*flags[:-1], "--profile=2:3")
    assert "--profile: step 2 is done already; the run goes on from step 3" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--track=wandbb",), r"^--track=wandbb: 'wandbb' is none of wandb, trackio, mlflow"),
        (("--profile=5",), r"^--profile=5: write STEP:COUNT"),
        (("--profile=0:1",), r"^--profile=0:1: write STEP:COUNT"),
        (("--profile=5:x",), r"^--profile=5:x: write STEP:COUNT"),
        (("--profile=6:2", "--steps=6", "--warmup=0"), r"^--profile=6:2: .* of --steps=6"),
        (("--profile=1:1", "--workdir=gs://b/run"), r"^--profile: .*gs://b/run is in a bucket"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        call("pretrain", *flags)


def test_a_tracker_that_is_not_installed_is_refused_first(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--track=mlflow: needs the package mlflow; .*jaxtrain\[mlflow\]"):
        bench.main("--track=mlflow", f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()
