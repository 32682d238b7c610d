"""Runs that hang or are stopped, as commands: a hang is restarted, and what follows is what an undisturbed run does."""

import os
import signal
import subprocess
import sys

import pytest

from jaxtrain.train import stop, watchdog
from tests.runs import ROOT, call, quick, rows, same_arrays

REWARD = """
import ctypes, os, pathlib, signal
calls, mark = 0, pathlib.Path(__file__).with_suffix(".done")
def length(completions, **columns):
    global calls
    calls += 1
    if calls == {at} and not mark.exists():
        mark.touch()
        {act}
    return [float(len(text)) for text in completions]
"""
GRPO = ("--group=4", "--steps=6", "--checkpoint_every=2", "--keep=9", "--minibatches=2")


def reward(folder, at, act):
    file = folder / "reward.py"
    file.write_text(REWARD.format(at=at, act=act))
    return f"--reward={file}:length"


@pytest.fixture(scope="module")
def undisturbed(town, tmp_path_factory):
    """A run of GRPO with a reward function that does nothing but its work."""
    folder = tmp_path_factory.mktemp("reward")
    return town.run("grpo", "undisturbed", *GRPO, reward(folder, 0, "pass"))


@pytest.fixture(scope="module", autouse=True)
def hanging(town, tmp_path_factory):
    """A run that hangs in its second rollout, in C code; the other tests do their work while it waits."""
    folder = tmp_path_factory.mktemp("hanging")
    flags = (
        *GRPO,
        reward(folder, 2, "ctypes.CDLL(None).sleep(900)"),
        "--step_timeout=20",
        f"--workdir={folder / 'run'}",
    )
    supervise = (str(ROOT / "launch" / "supervise.py"), "--backoff=0.1", "--max-restarts=1", "--")
    command = [sys.executable, "-P", "-m", "experiments.grpo", *town.flags("grpo", *flags)]
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen([sys.executable, *supervise, *command], env=env, stdout=out, stderr=err)
    yield folder, process
    process.terminate()
    process.wait(60)


def require_same(one, other):
    assert rows(one) == rows(other)
    assert len(same_arrays(one, other, 6)) > 5


def test_a_stop_in_a_rollout_saves_and_the_rollout_is_sampled_again(town, undisturbed, tmp_path):
    """Ctrl-C comes to a reward function, which is not interrupted; the rest of the rollout is left out."""
    workdir = tmp_path / "run"
    act = f"os.kill(os.getpid(), {int(signal.SIGINT)})"
    flags = town.flags("grpo", *GRPO, reward(tmp_path, 2, act), f"--workdir={workdir}")
    with quick():
        said = call("grpo", *flags)
        with pytest.raises(KeyboardInterrupt):
            stop.raise_if_stopped("in grpo")
        assert "stopped at step 2 of 6; the same command resumes there" in said
        assert "resuming from step 2 of 6" in call("grpo", *flags)
    require_same(workdir, undisturbed)


def test_a_run_that_hangs_is_restarted_and_ends_as_if_it_had_not(undisturbed, hanging):
    """The watchdog of the restart has nothing to do."""
    folder, process = hanging
    status = process.wait(timeout=400)
    out, err = ((folder / name).read_text() for name in ("out", "err"))
    assert status == 0, err
    assert err.count(f"supervise: exit status {watchdog.STATUS} (it hung)") == 1
    assert "watchdog: scoring " in err and " in length" in (folder / "run" / "hang-0.txt").read_text()
    assert "resuming from step 2 of 6" in out
    require_same(folder / "run", undisturbed)
