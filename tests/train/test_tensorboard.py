"""TensorBoard's events: groups of names, held-out metrics on the card of training, hyper-parameters, tables."""

import math
import os
import subprocess
import sys

import pytest

from experiments.sft import Sft
from jaxtrain import config
from jaxtrain.train.metric_names import grouped, is_training
from jaxtrain.train.metrics import MetricWriter
from jaxtrain.train.tensorboard import FOLDER, HELD_OUT, before_after
from tests.runs import ROOT
from tests.train.test_metrics import events

TRAINING = {"loss": 2.0, "accuracy": 0.5, "lr": 0.1, "tokens_per_s": 100.0, "hosts/step_time_max": 0.2}
EVALUATION = {"eval/loss": 3.0, "eval/accuracy": 0.25, "eval/perplexity": 20.0}
ANSWERS = {"judge/gold": 1.5, "completions/mean_length": 9.0}


def scalars(folder):
    return {(tag, step): round(value.simple_value, 6) for step, tag, value in events(folder)
            if tag != "session" and value.HasField("simple_value")}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "training", "expected"),
    [
        ("loss", True, "train/loss"),
        ("rewards/chosen", True, "train/rewards/chosen"),
        ("lr", True, "train/lr"),
        ("tokens_per_s", True, "time/tokens_per_s"),
        ("hosts/slowest", True, "time/hosts/slowest"),
        ("eval/loss", False, "eval/loss"),
        ("judge/gold", False, "judge/gold"),
        ("completions/mean_length", False, "eval/completions/mean_length"),
        ("completions/mean_length", True, "train/completions/mean_length"),
    ],
)
def test_groups(name, training, expected):
    assert grouped(name, training) == expected
    assert is_training({"lr": 0.1}) and not is_training({"eval/lr": 0.1})


def test_held_out_metrics_are_on_the_card_of_training(tmp_path):
    """An evaluation before the first line of training waits for it."""
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(1, EVALUATION)
        writer.write(2, TRAINING)
        writer.write(2, {**EVALUATION, "eval/loss": 2.5})
        writer.write(2, ANSWERS)
    assert scalars(tmp_path / FOLDER) == {
        ("eval/loss", 1): 3.0, ("eval/accuracy", 1): 0.25, ("eval/perplexity", 1): 20.0,
        ("train/loss", 2): 2.0, ("train/accuracy", 2): 0.5, ("train/lr", 2): 0.1,
        ("time/tokens_per_s", 2): 100.0, ("time/hosts/step_time_max", 2): 0.2,
        ("eval/loss", 2): 2.5, ("eval/accuracy", 2): 0.25, ("eval/perplexity", 2): 20.0,
        ("judge/gold", 2): 1.5, ("eval/completions/mean_length", 2): 9.0,
    }  # fmt: skip
    assert scalars(tmp_path / FOLDER / HELD_OUT) == {
        ("train/loss", 1): 3.0, ("train/accuracy", 1): 0.25, ("train/loss", 2): 2.5, ("train/accuracy", 2): 0.25,
    }  # fmt: skip


def test_a_resumed_run_knows_the_metrics_of_its_training(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(2, TRAINING)
    with MetricWriter(tmp_path, 2, again=True) as writer:
        writer.write(2, EVALUATION)
    assert scalars(tmp_path / FOLDER / HELD_OUT) == {("train/loss", 2): 3.0, ("train/accuracy", 2): 0.25}


def test_a_run_without_training_lines_has_its_evaluation_alone(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(1, EVALUATION)
    assert ("eval/loss", 1) in scalars(tmp_path / FOLDER) and not (tmp_path / FOLDER / HELD_OUT).exists()


def test_before_and_after_are_a_table_and_no_charts(tmp_path):
    values = {
        "judge/gold": 1.0,
        "before/gold": 1.25,
        "before/refuse": 0.0,
        "after/gold": 1.75,
        "after/refuse": 1.0,
    }
    with MetricWriter(tmp_path, 0) as writer:
        writer.write(9, values)
    assert scalars(tmp_path / FOLDER) == {("judge/gold", 9): 1.0}
    (table,) = [
        value.tensor.string_val[0].decode() for _, tag, value in events(tmp_path / FOLDER) if "before" in tag
    ]
    assert table == (
        "| measure | before | after |\n|---|---:|---:|\n| gold | 1.2500 | 1.7500 |\n| refuse | 0.0000 | 1.0000 |"
    )
    assert before_after({"judge/gold": 1.0}) == "" and "nan" in before_after({"before/x": math.inf})


def test_the_flags_of_a_run_are_its_hyper_parameters(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    flags = config.fixed_flags(Sft())
    assert flags["lr"] == Sft().optim.lr and not {"workdir", "cache_dir", "prompts"} & flags.keys()
    with MetricWriter(tmp_path, 0, Sft()) as writer:
        writer.write(2, TRAINING)
    found = {}
    for _, tag, value in events(tmp_path / FOLDER):
        if tag.startswith("_hparams_/"):
            found[tag] = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    start = found["_hparams_/session_start_info"].session_start_info.hparams
    assert start.keys() == flags.keys() and start["data"].string_value == "tinytown:sft"
    assert start["lr"].number_value == flags["lr"] and start["dora"].bool_value is False
    results = [each.name.tag for each in found["_hparams_/experiment"].experiment.metric_infos]
    assert "train/loss" in results and "_hparams_/session_end_info" in found


WRITES = """
import pathlib, sys
from jaxtrain.train.tensorboard import EventWriter
EventWriter(pathlib.Path("events"), 0, {"lr": 0.1}).close()
assert "tensorboardX" in sys.modules and not {"torch", "boto3", "google.cloud.storage"} & sys.modules.keys()
import torch, boto3  # what comes later has them
"""


def test_events_are_written_without_packages_that_take_seconds_to_import(tmp_path):
    for name in ("torch", "boto3"):
        (tmp_path / f"{name}.py").write_text(f"print('{name}')")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", WRITES], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "torch\nboto3\n"), done.stderr
    assert any((tmp_path / "events").iterdir())
