"""A short soak of two stages in one process, and a soak that must fail: its reference is of another run."""

import json
import os
import subprocess
import sys

import pytest

from tests.runs import ROOT

FLAGS = ("--records=0", "--requests=0", "--seed=1")


def soak(folder, *flags):
    """(exit status, output) of the command."""
    command = [sys.executable, "-P", "-m", "experiments.soak", f"--workdir={folder}", *FLAGS, *flags]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=1200
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("soak")


def test_two_stages_hold_what_is_promised(folder):
    faults = "kill -9 at an event,bit flip,SIGTERM at an event"
    status, output = soak(folder, "--stages=pretrain,ppo", f"--faults={faults}", "--attempts=4")
    assert status == 0, output
    report = json.loads((folder / "soak.json").read_text())
    assert sum(row["times"] for row in report["table"]) == 4 == sum(row["held"] for row in report["table"])
    assert {one["target"] for one in report["injections"]} == {"pretrain", "ppo"}
    assert all(one["what"] and not one["why"] for one in report["injections"])
    assert not (folder / "failed").exists() and "in all" in output


def test_a_soak_whose_reference_is_of_another_run_fails(folder):
    (observed,) = folder.glob("*/targets/pretrain/observed.json")
    values = json.loads(observed.read_text())
    name = next(name for name in values if name.startswith("metrics.jsonl"))
    values[name]["loss"] += 1e-7
    observed.write_text(json.dumps(values))
    status, output = soak(folder, "--only=pretrain:kill -9 at an event:1")
    assert status == 1 and "Traceback" not in output, output
    assert f"{name} differs" in output and '--only="pretrain:kill -9 at an event:1"' in output
    assert (folder / "failed" / "pretrain-kill_-9_at_an_event-1" / "run" / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--stages=nothing", "--stages=nothing: choose some of"),
        ("--only=x", "--only=x: write STAGE:FAULT:NUMBER"),
    ],
)
def test_a_wrong_name_is_refused_at_once(tmp_path, flag, message):
    status, output = soak(tmp_path / "none", flag)
    assert status == 2 and message in output and "importing" not in output
    assert not (tmp_path / "none").exists()
