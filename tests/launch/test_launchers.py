"""The launchers for clusters say what they would run; local.sh and supervise.py run it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL = sorted(
    path
    for path in [*(ROOT / "launch").iterdir(), ROOT / ".ci" / "run"]
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
)
STAGE = ["pretrain", "--model=nano", "--data=jsonl:a b.jsonl"]


NOISY = '''
"""Prints."""
import os, sys
here = os.environ["JAXTRAIN_PROCESS_ID"]
print(f"[Gloo] Rank {here} is connected to 1 peer ranks. Expected number of connected peer ranks is : 1")
print(f"of {here}", flush=True)
print(f"an error of {here}, level {os.environ['TF_CPP_MIN_LOG_LEVEL']}", file=sys.stderr)
print("the end", end="")
if __name__ == "__main__":
    sys.exit()
'''.lstrip()


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_scripts_parse(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"


def dry(launcher: str, *arguments: str, **env: str) -> list[list[str]]:
    """The commands that a dry run prints, as argument lists."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JAX"))}
    command = ["bash", str(ROOT / "launch" / launcher), "--dry-run", *arguments]
    out = subprocess.check_output(command, cwd=ROOT, env={**clean, **env}, text=True)
    return [shlex.split(line) for line in out.splitlines()]


def test_local_dry_run():
    first, second = dry("local.sh", "2", *STAGE, JAXTRAIN_ACCELERATOR="cuda")
    for i, command in enumerate((first, second)):
        env, ran = command[: -1 - len(STAGE)], command[-1 - len(STAGE) :]
        assert ran == [str(ROOT / "launch" / "run"), *STAGE]
        assert {"JAXTRAIN_NUM_PROCESSES=2", f"JAXTRAIN_PROCESS_ID={i}", f"JAX_LOCAL_DEVICE_IDS={i}"} < set(
            env
        )
    assert first[0] == second[0] and first[0].startswith("JAXTRAIN_COORDINATOR=127.0.0.1:")


def test_slurm_dry_run():
    (step,) = dry("slurm.sbatch", *STAGE, SLURM_SUBMIT_DIR=str(ROOT))
    assert step[0] == "srun" and step[-len(STAGE) - 1 :] == [str(ROOT / "launch" / "run"), *STAGE]


def test_slurm_refuses_another_folder(tmp_path):
    script = ["bash", str(ROOT / "launch" / "slurm.sbatch"), "pretrain"]
    done = subprocess.run(
        script, env={**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "submit from there" in done.stderr


def test_tpu_vm_dry_run():
    (create,) = dry("tpu_vm.sh", "create", NAME="mine", TYPE="v6e-8", ZONE="z", IMAGE="i", SPOT="1")
    assert create[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "mine"]
    assert {"--accelerator-type=v6e-8", "--zone=z", "--version=i", "--spot"} < set(create)
    out = subprocess.check_output(
        ["bash", "launch/tpu_vm.sh", "--dry-run", "run", *STAGE], cwd=ROOT, text=True
    )
    archive, copy, start = out.strip().split("\n", 2)
    assert shlex.split(archive)[-1] == "HEAD" and "--worker=all" in copy
    # bash prints the script that the hosts run as one $'...' word; bash reads it back.
    script = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {start}"], text=True).split("\0")[7]
    assert script.startswith("--command=")
    script = script.removeprefix("--command=")
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    assert f"launch/run {' '.join(STAGE[:2])} --data=jsonl:a\\ b.jsonl " in script
    assert "JAXTRAIN_NUM_PROCESSES=2" in script and "JAXTRAIN_EXTRAS=\n" in script
    out = subprocess.check_output(
        ["bash", "launch/tpu_vm.sh", "--dry-run", "run", "pretrain", "--workdir=gs://b/run"],
        cwd=ROOT,
        text=True,
    )
    assert "JAXTRAIN_EXTRAS=remote" in out


def test_gke_dry_run():
    (run,) = dry("gke_xpk.sh", "run", *STAGE, CLUSTER="c", WORKLOAD="w", TYPE="v5p-8")
    assert run[:3] == ["xpk", "workload", "create"]
    assert {"--cluster=c", "--workload=w", "--tpu-type=v5p-8"} < set(run)
    assert shlex.split(run[-1].removeprefix("--command=")) == ["launch/run", *STAGE]
    assert dry("gke_xpk.sh", "stop", WORKLOAD="w")[0][:3] == ["xpk", "workload", "delete"]


@pytest.mark.parametrize("launcher", ["local.sh", "tpu_vm.sh", "gke_xpk.sh"])
def test_usage_errors(launcher):
    done = subprocess.run(
        ["bash", str(ROOT / "launch" / launcher), "nonsense"], capture_output=True, text=True
    )
    assert done.returncode == 2 and f"usage: launch/{launcher}" in done.stderr


def test_local_runs_every_process(ready):
    done = ready.call("launch/local.sh", "3", "show", "--steps=2")
    assert done.returncode == 0, done.stderr
    lines = [re.fullmatch(r"\[(\d)\] (.*)", line) for line in done.stdout.splitlines()]
    seen = [json.loads(line[2]) for line in lines]
    assert sorted(line[1] for line in lines) == ["0", "1", "2"]
    assert [s["env"]["JAXTRAIN_PROCESS_ID"] for s in seen] == [line[1] for line in lines]
    assert {s["env"]["JAXTRAIN_NUM_PROCESSES"] for s in seen} == {"3"}
    assert len({s["env"]["JAXTRAIN_COORDINATOR"] for s in seen}) == 1
    assert all(s["argv"] == ["--steps=2"] for s in seen)


def test_local_prefixes_every_line_of_every_process(ready):
    """Those of stderr, and a last one without an end; what a library prints at every start is left out."""
    stage = ready.root / "experiments" / "noisy.py"
    stage.write_text(NOISY)
    done = ready.call("launch/local.sh", "2", "noisy", TF_CPP_MIN_LOG_LEVEL="")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["[0] of 0", "[0] the end", "[1] of 1", "[1] the end"]
    assert sorted(line for line in done.stderr.splitlines() if not line.startswith("launch:")) == [
        "[0] an error of 0, level 2", "[1] an error of 1, level 2"
    ]  # fmt: skip


@pytest.mark.parametrize("within", ["soon", "0"])
def test_local_checks_its_settings_before_it_starts_anything(ready, within):
    done = ready.call("launch/local.sh", "2", "show", JAXTRAIN_STOP_WITHIN=within)
    assert done.returncode == 2 and done.stdout == "" and "write a number of seconds" in done.stderr


def test_local_ends_all_when_one_fails(ready, tmp_path):
    done = ready.call("launch/local.sh", "2", "show", "--wait", "--fail=1", cwd=tmp_path)
    assert done.returncode == 7
    assert "ended with status 7; stopping the others" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_local_passes_signals_on_and_ends_with_their_status(ready, tmp_path, number, status):
    process = ready.start("launch/local.sh", "2", "show", "--wait", cwd=tmp_path)
    while len(list(tmp_path.glob("up-*"))) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == status
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


@pytest.mark.parametrize("signals", [1, 2])
def test_local_kills_what_hangs(ready, tmp_path, signals):
    """Soon after SIGTERM, or at once at a second one; nothing that it started is left."""
    bound = {"JAXTRAIN_STOP_WITHIN": "1" if signals == 1 else "900"}
    process = ready.start("launch/local.sh", "2", "show", "--hang", cwd=tmp_path, **bound)
    while len(pids := [path.read_text() for path in tmp_path.glob("up-*")]) < 2 or not all(pids):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    if signals == 2:
        time.sleep(0.5)  # bash runs one trap for two signals that come at once
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 137 and "2 processes have not ended; killing them" in err
    assert not any(Path("/proc", pid).exists() for pid in pids)


def supervise(*arguments: str, cwd: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch" / "supervise.py"), *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shell(text: str) -> list[str]:
    return ["--", "bash", "-c", f"echo x >>runs; {text}"]


@pytest.mark.parametrize(
    ("text", "status", "runs"),
    [
        ("exit 0", 0, 1),
        ("exit 2", 2, 1),
        ("exit 9", 9, 4),
        ("kill -KILL $$", 137, 4),
        ("[ $(wc -l <runs) = 3 ] || exit 1", 0, 3),
    ],
)
def test_supervise_restarts_what_can_succeed(tmp_path, text, status, runs):
    process = supervise("--backoff=0.01", "--max-restarts=3", *shell(text), cwd=tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert (tmp_path / "runs").read_text().count("x") == runs
    assert err.count("restart ") == runs - 1
    assert ("giving up after 3 restarts" in err) == (runs == 4)


def test_supervise_counts_restarts_in_a_row(tmp_path):
    text = "[ $(wc -l <runs) -lt 4 ] || exit 0; sleep 0.3; exit 1"
    arguments = ["--backoff=0.01", "--max-restarts=1", "--healthy-after=0.2"]
    process = supervise(*arguments, *shell(text), cwd=tmp_path)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("saves", [True, False])
def test_supervise_restarts_what_hangs_while_it_makes_progress(tmp_path, saves):
    """However long it lasted, since a hang lasts as long as the watchdog waits."""
    text = (
        "n=$(wc -l <runs); [ $n -lt 4 ] || exit 0; "
        + "mkdir -p run/checkpoints/$n; " * saves
        + "sleep .2; exit 42"
    )
    options = ["--backoff=0.01", "--max-restarts=1", "--healthy-after=0.1"]
    process = supervise(*options, *shell(text), "--workdir=run", cwd=tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (0 if saves else 42)
    assert "exit status 42 (it hung)" in err and ("giving up after 1 restarts" in err) == (not saves)


def test_supervise_kills_what_does_not_end(tmp_path):
    process = supervise("--stop-within=0.1", *shell('trap "" TERM; while :; do sleep 9; done'), cwd=tmp_path)
    while not (tmp_path / "runs").exists():
        time.sleep(0.02)
    time.sleep(0.3)  # bash sets its trap
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 137 and "has not ended 0.1 s after a signal" in err


@pytest.mark.parametrize("where", ["run", "wait"])
def test_supervise_passes_signals_on_and_stops(tmp_path, where):
    text = (
        'trap "echo saved >>runs; exit 0" TERM; while :; do sleep 0.05; done' if where == "run" else "exit 1"
    )
    process = supervise("--backoff=60", *shell(text), cwd=tmp_path)
    if where == "wait":
        assert "restart 1 of 10 in 60 s" in process.stderr.readline()
    else:
        while not (tmp_path / "runs").exists():
            time.sleep(0.02)
        time.sleep(0.2)  # bash sets its trap
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == (0 if where == "run" else 143)
    assert (tmp_path / "runs").read_text() == ("x\nsaved\n" if where == "run" else "x\n")


def test_supervise_refuses_what_cannot_run(tmp_path):
    process = supervise("--", "/nowhere/python", cwd=tmp_path)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 2 and "cannot run /nowhere/python" in err
