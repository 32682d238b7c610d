"""Checkpoints of processes that are killed while saving, or whose disk fills up."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from jaxtrain.train.checkpoint import Checkpoints


def run(script: str, *args, **options) -> subprocess.Popen:
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-c", script, *map(str, args)], env=env, text=True, **options)


FULL_DISK = """
import resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from jaxtrain.train.checkpoint import CheckpointError, Checkpoints

def state(step):
    return {"params": {"w": jax.random.normal(jax.random.key(step), (512, 512))}, "step": jnp.int32(step)}

with Checkpoints(Path(sys.argv[1]), 3) as checkpoints:
    checkpoints.save(1, state(1), {})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    for find in (checkpoints.wait, lambda: checkpoints.save(3, state(3), {})):
        checkpoints.save(2, state(2), {})
        try:
            find()
        except CheckpointError as error:
            print(error)
        assert checkpoints.steps() == [1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    checkpoints.save(4, state(4), {})
print(checkpoints.steps())
"""


def test_a_disk_that_fills_up_while_saving(tmp_path):
    """The failure surfaces at wait and at the next save, the last good step stays, and saving works again."""
    with run(FULL_DISK, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    *failures, last = out.splitlines()
    assert len(failures) == 2
    for text in failures:
        assert "saving step 2 in" in text and "Step 1 is the last good one" in text and "make room" in text
    assert last == "[1, 4]"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()) == ["1", "4"]


SAVER = """
import sys
from pathlib import Path
import jax
from jaxtrain.train.checkpoint import Checkpoints

def state(step):
    key = jax.random.fold_in(jax.random.key(0), step)
    return {"params": {"w": jax.random.uniform(key, (600, 500))}, "step": step, "rng": jax.random.key(7)}

make = jax.jit(state)
with Checkpoints(Path(sys.argv[1]), 2) as checkpoints:
    step = max(checkpoints.steps(), default=0)
    while True:
        step += 1
        checkpoints.save(step, make(step), {"step": step})
        print(step, flush=True)
"""


@jax.jit
def killed_state(step: int) -> dict:
    key = jax.random.fold_in(jax.random.key(0), step)
    return {"params": {"w": jax.random.uniform(key, (600, 500))}, "step": step, "rng": jax.random.key(7)}


def kill_and_check(workdirs: list[Path], seed: int) -> None:
    """One saver a workdir, killed at a random moment of its saves: the last complete step is right."""
    here = SingleDeviceSharding(jax.devices()[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)  # noqa: E731
    wanted = jax.tree.map(place, killed_state(0))
    draw = random.Random(seed)
    savers = [run(SAVER, workdir, stdout=subprocess.PIPE) for workdir in workdirs]
    told = []
    for saver in savers:
        steps = [int(saver.stdout.readline()) for _ in range(3)]
        time.sleep(draw.uniform(0, 0.3))
        saver.send_signal(signal.SIGKILL)
        told.append([*steps, *map(int, saver.stdout)])
        saver.wait()
        saver.stdout.close()
    for steps, workdir in zip(told, workdirs, strict=True):
        with Checkpoints(workdir, 2) as checkpoints:
            last = checkpoints.steps()[-1]
            assert last >= steps[-1] - 1, "all but the save under way are complete"
            state, meta = checkpoints.restore(wanted)
            assert int(state["step"]) == meta["step"] == last
            assert (state["params"]["w"] == killed_state(last)["params"]["w"]).all()
            assert (jax.random.key_data(state["rng"]) == jax.random.key_data(jax.random.key(7))).all()
            checkpoints.save(last + 1, killed_state(last + 1), {"step": last + 1})
        names = {entry.name for entry in (workdir / "checkpoints").iterdir() if entry.is_dir()}
        assert all(name.isdecimal() for name in names), "the next save clears what the kill left"
        assert Checkpoints(workdir, 2).steps()[-1] == last + 1


def test_kill_at_a_random_moment_of_a_save(tmp_path):
    kill_and_check([tmp_path / str(n) for n in range(3)], seed=1)


@pytest.mark.slow
def test_many_kills_one_after_the_other(tmp_path):
    for seed in range(10):
        kill_and_check([tmp_path / "a", tmp_path / "b"], seed)


def test_nothing_heavy_is_imported_before_the_first_save(tmp_path):
    script = (
        "import sys; from pathlib import Path; from jaxtrain.train.checkpoint import Checkpoints\n"
        "with Checkpoints(Path(sys.argv[1]), 2) as c: print(c.steps(), 'orbax' in sys.modules)"
    )
    with run(script, tmp_path, stdout=subprocess.PIPE) as process:
        assert process.communicate(timeout=60)[0].strip() == "[] False"
    assert not any(tmp_path.iterdir())
