"""launch/run and launch/test: what they install, when they do not, and what they refuse."""

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

TOOLS = ("bash", "cat", "dirname", "grep", "head", "sed")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder for PATH with what the launchers call, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        where = next(p for d in os.get_exec_path() if (p := Path(d, tool)).exists())
        (folder / tool).symlink_to(where)
    return folder


def function(project, *call: str, **env: str) -> subprocess.CompletedProcess:
    """Calls one function of setup.sh."""
    command = ["bash", "-euc", '. launch/setup.sh; "$@"', "-", *call]
    env = project.environment(**env)
    return subprocess.run(command, cwd=project.root, env=env, capture_output=True, text=True)


def test_lists_the_stages(project):
    for arguments in ((), ("--help",)):
        done = project.call("launch/run", *arguments)
        assert done.returncode == 0
        assert "  show             Shows what a stage gets.\n" in done.stdout
        assert "common" not in done.stdout and "Not in the list" not in done.stdout
    assert not (project.root / ".venv").exists()


def test_completions_are_those_of_a_stage(ready):
    (ready.root / "experiments" / "completion.py").write_text(
        (ready.root / "experiments" / "show.py").read_text()
    )
    for given in (["--completion", "fish"], ["--completion=fish"]):
        done = ready.call("launch/run", *given)
        assert done.returncode == 0 and json.loads(done.stdout)["argv"] == ["--shell=fish"]


def test_unknown_stage_is_refused_with_the_list(project):
    done = project.call("launch/run", "shwo", "--steps=1")
    assert done.returncode == 2
    assert (
        "no stage named shwo; did you mean show?" in done.stderr and "Shows what a stage gets." in done.stderr
    )
    assert not (project.root / ".venv").exists()


def test_a_python_that_does_not_do_is_refused_with_the_remedy(project, bare):
    script(bare / "python3", "echo 3.10")
    shim = (
        "pyenv: python3.13: command not found",
        "",
        "The `python3.13' command exists in these Python versions:",
    )
    script(
        bare / "python3.13",
        "\n".join(f'echo "{line}" >&2'.replace("`", "\\`") for line in shim) + "\nexit 127",
    )
    script(bare / "python3.12", 'case "$*" in *ensurepip*) exit 1 ;; esac; echo 3.12')
    done = project.call("launch/run", "show", JAXTRAIN_PYTHON="", PATH=str(bare))
    assert done.returncode == 2
    assert "python3: Python 3.10, too old" in done.stderr
    assert (
        "launch:   python3.13: does not run as Python 3\n"
        "launch:     pyenv: python3.13: command not found\n"
        "launch:     The `python3.13' command exists in these Python versions:\n"
    ) in done.stderr
    assert (
        "python3.12: Python 3.12 without its venv module (Debian: apt-get install python3.12-venv)"
        in done.stderr
    )
    assert "JAXTRAIN_PYTHON=" in done.stderr and "3.11 or newer" in done.stderr
    assert not (project.root / ".venv").exists()


def test_a_named_python_that_is_missing_is_refused(project):
    done = project.call("launch/run", "show", JAXTRAIN_PYTHON="/nowhere/python3.12")
    assert done.returncode == 2
    assert "/nowhere/python3.12: no such command" in done.stderr


def test_a_tested_python_is_taken_before_an_older_or_newer_one(project, bare):
    script(bare / "python3", "echo 3.99")
    script(bare / "python3.13", "echo 3.10")
    script(bare / "python3.12", "echo 3.12")
    found = function(project, "find_python", JAXTRAIN_PYTHON="", PATH=str(bare))
    assert found.stdout == "python3.12\n" and found.stderr == ""
    (bare / "python3.12").unlink()
    found = function(project, "find_python", JAXTRAIN_PYTHON="", PATH=str(bare))
    assert found.stdout == "python3\n" and "newer than the tested" in found.stderr


def test_wrong_accelerator_is_refused(project):
    done = project.call("launch/run", "show", JAXTRAIN_ACCELERATOR="gpu")
    assert done.returncode == 2
    assert "JAXTRAIN_ACCELERATOR=gpu: write cpu, cuda or tpu" in done.stderr


def test_accelerators_are_detected(project, tmp_path):
    fs, found = tmp_path / "fs", tmp_path / "bin"
    (fs / "dev" / "vfio").mkdir(parents=True)
    found.mkdir()
    path = f"{found}:{os.environ['PATH']}"

    def detected(**env: str) -> str:
        return function(project, "accelerator", str(fs), JAXTRAIN_ACCELERATOR="", **env).stdout

    assert detected() == "cpu\n"
    # An accelerator node alone may be anyone's.
    (fs / "dev" / "accel0").touch()
    assert detected() == "cpu\n"
    assert detected(TPU_WORKER_ID="0") == "tpu\n"
    product = fs / "sys" / "class" / "dmi" / "id" / "product_name"
    product.parent.mkdir(parents=True)
    product.write_text("Google Compute Engine\n")
    assert detected() == "tpu\n"
    # nvidia-smi without a GPU, and with one.
    script(found / "nvidia-smi", "echo 'No devices were found'; exit 6")
    assert detected(PATH=path) == "tpu\n"
    script(found / "nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'")
    assert detected(PATH=path) == "cuda\n"


def test_installs_once(project, tmp_path):
    """One environment through its life: each step says whether it installs."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "experiments").mkdir(parents=True)
    first = project.call("launch/run", "show", "--data=a b.jsonl", cwd=elsewhere)
    assert first.returncode == 0, first.stderr
    assert "making .venv" in first.stderr and "installing jaxtrain[cpu,filters,serve]" in first.stderr
    seen = json.loads(first.stdout)
    assert seen["argv"] == ["--data=a b.jsonl"] and seen["cwd"] == str(elsewhere)
    assert seen["env"]["JAX_PLATFORMS"] == "cpu"

    second = project.call("launch/run", "show")
    assert second.returncode == 0 and second.stderr == "" and project.installs == 1

    # A further extra is added to what is there; the accelerator's own is one.
    assert project.call("launch/setup.sh", "test", JAXTRAIN_EXTRAS="hf").returncode == 0
    assert project.call("launch/setup.sh", "test").returncode == 0
    assert project.installs == 2
    refused = project.call("launch/run", "show", JAXTRAIN_ACCELERATOR="cuda", PATH=without_gpu(tmp_path))
    assert (
        refused.returncode == 2 and "there is no NVIDIA GPU here" in refused.stderr and project.installs == 2
    )
    assert "launch/setup.sh" in refused.stderr
    cuda = project.call("launch/run", "show", JAXTRAIN_ACCELERATOR="cuda", PATH=with_gpu(tmp_path))
    assert json.loads(cuda.stdout)["env"]["JAX_PLATFORMS"] == "cuda,cpu" and project.installs == 3
    named = project.call("launch/run", "show", JAX_PLATFORMS="tpu")
    assert json.loads(named.stdout)["env"]["JAX_PLATFORMS"] == "tpu" and project.installs == 3

    # Other requirements: installed again, and a failure leaves word of what to do.
    (project.root / "constraints.txt").write_text("numpy==2.0.0\n")
    (project.root / "break").touch()
    broken = project.call("launch/run", "show")
    assert broken.returncode == 1 and broken.stdout == "" and project.installs == 4
    assert "no such mirror" in broken.stderr and ".venv/install.log" in broken.stderr
    assert "no such mirror" in (project.root / ".venv" / "install.log").read_text()
    # What was there is there again: nothing is made anew.
    assert function(project, "unusable").stdout == "" and not (project.root / ".venv.before").exists()
    (project.root / "constraints.txt").write_text("")
    again = project.call("launch/run", "show")
    assert again.returncode == 0 and again.stderr == "" and project.installs == 4


def with_gpu(folder: Path) -> str:
    """PATH with an nvidia-smi that lists a GPU."""
    (folder / "smi").mkdir(exist_ok=True)
    script(folder / "smi" / "nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'")
    return f"{folder / 'smi'}:{os.environ['PATH']}"


def without_gpu(folder: Path) -> str:
    (folder / "no smi").mkdir(exist_ok=True)
    script(folder / "no smi" / "nvidia-smi", "exit 9")
    return f"{folder / 'no smi'}:{os.environ['PATH']}"


def test_devices_are_required_before_anything_is_installed(project, tmp_path):
    fs = tmp_path / "fs"
    (fs / "dev" / "vfio").mkdir(parents=True)
    none = {"PATH": without_gpu(tmp_path)}
    for kind, node in (("cuda", "nvidia0"), ("tpu", "vfio/0")):
        refused = function(project, "require_device", kind, str(fs), **none)
        assert refused.returncode == 2 and f"JAXTRAIN_ACCELERATOR={kind}: there is no" in refused.stderr
        (fs / "dev" / node).touch()
        done = function(project, "require_device", kind, str(fs), **none, TPU_WORKER_ID="0")
        assert done.returncode == 0, done.stderr
    assert function(project, "require_device", "cpu", str(fs), **none).returncode == 0


def test_a_kill_between_two_steps_of_going_back_is_repaired(project):
    venv, before = project.root / ".venv", project.root / ".venv.before"
    (venv / "bin").mkdir(parents=True)
    (venv / "installing").touch()
    venv.rename(project.root / ".venv.removed")  # the kill came here
    before.mkdir()
    (before / "root").touch()
    assert function(project, "restore").returncode == 0
    assert (venv / "root").exists() and not before.exists()
    # The install finished, but for the removal of the copy.
    before.mkdir()
    assert function(project, "restore").returncode == 0
    assert (venv / "root").exists() and not before.exists()


UV = """
echo "$@" >>"{log}"
[ ! -e "{broken}" ] || exit 1
shift 2
python=$2
while [ "$1" != --editable ] && [ $# -gt 0 ]; do shift; done
[ $# -eq 0 ] || exec "$python" -m pip install --no-index --no-deps --no-build-isolation "$@"
"""


def test_uv_installs_where_it_is_there_and_pip_where_it_fails_and_a_kill_costs_nothing(project, tmp_path):
    log, broken, uv = tmp_path / "uv.log", tmp_path / "broken", tmp_path / "uv bin"
    uv.mkdir()
    script(uv / "uv", UV.format(log=log, broken=broken))
    env = {"PATH": f"{uv}:{os.environ['PATH']}", "PIP_INDEX_URL": "http://mirror/simple"}
    (project.root / "setup.py").write_text(
        'from setuptools import setup\nsetup(extras_require={"cpu": [], "test": ["pytest>=8.3", "ruff[x]>=0.12"]})\n'
    )
    done = project.call("launch/setup.sh", **env)
    assert done.returncode == 0 and "with uv," in done.stderr and project.installs == 1, done.stderr
    calls = log.read_text().splitlines()
    python = f"--python {project.root}/.venv/bin/python --no-progress --no-index --default-index http://mirror/simple"
    assert calls[0].startswith(f"pip install {python} --require-hashes") and "--editable" in calls[1]

    # A kill while an extra installs leaves the environment as it was.
    (project.root / ".venv" / "mark").write_text("before")
    (project.root / "wait").touch()
    killed = project.start("launch/setup.sh", "test", JAXTRAIN_INSTALLER="pip")
    while project.installs < 2:
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    (project.root / ".venv" / "half").touch()  # of a package that was being installed
    (project.root / "wait").unlink()
    done = project.call("launch/run", "show")
    assert done.returncode == 0 and project.installs == 2
    assert "going back to the .venv from before" in done.stderr and "making .venv" not in done.stderr
    assert (project.root / ".venv" / "mark").read_text() == "before"
    assert not (project.root / ".venv" / "half").exists() and not list(project.root.glob(".venv.[br]*"))

    # Without a named installer pip is the second; what an extra needs is printed before.
    broken.touch()
    failed = project.call("launch/setup.sh", "test", JAXTRAIN_INSTALLER="uv", **env)
    assert failed.returncode == 1 and "trying pip" not in failed.stderr and project.installs == 2
    wrong = project.call("launch/setup.sh", "test", JAXTRAIN_INSTALLER="conda", **env)
    assert wrong.returncode == 2 and "write pip or uv" in wrong.stderr
    done = project.call("launch/setup.sh", "test", **env)
    assert (
        done.returncode == 0 and "uv could not install; trying pip" in done.stderr and project.installs == 3
    )
    assert done.stderr.index("cpu,test need pytest, ruff\n") < done.stderr.index(
        "installing jaxtrain[cpu,test]"
    )
    assert function(project, "installed", "cpu", "test").returncode == 0


def test_a_cpu_installs_by_hashes(project):
    (project.root / "launch" / "cpu.lock").write_text(f"absent==1.0 --hash=sha256:{'0' * 64}\n")
    refused = project.call("launch/run", "show")
    assert refused.returncode == 1 and "absent==1.0" in refused.stderr and project.installs == 0
    done = project.call("launch/run", "show", JAXTRAIN_HASHES="off")
    assert done.returncode == 0 and "installing jaxtrain[cpu] with" in done.stderr
    # What the lock does not hold comes by the constraints.
    assert project.call("launch/setup.sh", "test").returncode == 0


def test_an_environment_of_another_place_or_python_is_not_kept(ready, tmp_path):
    assert function(ready, "unusable").stdout == ""
    script(tmp_path / "python", "echo another version")
    other = function(ready, "unusable", JAXTRAIN_PYTHON=str(tmp_path / "python")).stdout
    assert other == f"it has another Python than {tmp_path}/python\n"
    moved = type(ready)(tmp_path / "moved")
    (moved.root / ".venv").symlink_to(ready.root / ".venv")
    assert function(moved, "unusable").stdout == f"it was made for {ready.root}\n"


def test_an_environment_of_someone_else_is_left_alone(project):
    (project.root / ".venv").mkdir()
    (project.root / ".venv" / "mine").touch()
    done = project.call("launch/run", "show")
    assert done.returncode == 2 and "move it away" in done.stderr
    assert (project.root / ".venv" / "mine").exists()


def test_a_kill_is_repaired_and_two_calls_take_turns(project):
    wait = project.root / "wait"
    wait.touch()
    killed = project.start("launch/run", "show")
    while not (project.root / ".venv" / "pyvenv.cfg").exists():
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    first = project.start("launch/run", "show", "--first")
    while not project.installs:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    second = project.start("launch/run", "show", "--second")
    assert "waiting for another launch" in second.stderr.readline()
    wait.unlink()
    _, said = first.communicate(timeout=60)
    out, _ = second.communicate(timeout=60)
    assert first.returncode == second.returncode == 0
    assert "removing .venv: an earlier install did not finish" in said
    assert json.loads(out)["argv"] == ["--second"] and project.installs == 1
