"""Stages in two processes whose devices are interleaved in the mesh, as in a TPU slice: the losses are those of one
process. A pair of processes runs all stages one after the other, which saves their starts.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxtrain.train import parallel
from tests.runs import MODEL, ROOT, call, in_two_processes, quick, rows, same_arrays

make_plan = parallel.make

CHILD = """
import json, os, sys
import jax
from jaxtrain.train import parallel, processes
from tests.runs import call

processes.initialize()
del os.environ["JAXTRAIN_COORDINATOR"]  # the commands do not join again
devices = sorted(jax.devices(), key=lambda d: (d.id % 2048, d.process_index))
assert [d.process_index for d in devices] == [0, 1, 0, 1]
make_plan = parallel.make
parallel.make = lambda run: make_plan(run, devices)
for stage, flags in json.load(open(sys.argv[1])):
    said = call(stage, *flags)
    said = [line for line in said.splitlines() if "bad record" in line or "finished" in line]
    assert bool(said) == (jax.process_index() == 0), (stage, said)
"""

SHORT = ("--steps=3", "--warmup=1", "--lr=0.01", "--log_every=1")
# Each tensor pair spans both processes, which then have the same rows; each fsdp shard's rows are two pieces.
FSDP, TENSOR = "--mesh=fsdp:4", "--mesh=data:2,tensor:2"
TEXTS = "tinytown:pretrain?documents=300&held_out=40"
DIALOGS = "tinytown:sft?documents=96&held_out=24"
LENGTHS = "tests.experiments.test_two_processes:lengths"
STAGES = {
    "pretrain": (None, None, FSDP, f"--data={TEXTS}", f"--model={MODEL}",
                 "--tokenizer=bpe:400", "--seq_len=64", "--batch_size=8", "--eval_batches=1"),
    "sft": ("base", DIALOGS, TENSOR, "--neftune=5"),
    "reward": ("sft", None, FSDP),
    "dpo": ("sft", None, TENSOR, "--loss=kto"),
    "ppo": ("sft", None, TENSOR, "--reward=gold", "--steps=2", "--epochs=2", "--prompt_count=4", "--max_new=8",
            f"--ptx_data={TEXTS}", "--keep_best=judge/gold", "--skip_spikes=6"),
    "ppo again": ("sft", None, TENSOR, "--reward=gold", "--epochs=2", "--minibatches=1", "--max_new=8",
                  f"--ptx_data={TEXTS}", "--prompt_count=4", "--checkpoint_every=1", "--keep=9"),
    "grpo": ("sft", None, FSDP, "--reward=gold", "--group=4"),
    "grpo episodes": ("sft", None, FSDP, "--env=tests.rl.test_episodes:Lengths", "--group=4", "--max_new=8",
                      "--seq_len=64"),  # each process calls the environments of half of the episodes
    "grpo continuous": ("sft", None, FSDP, f"--reward={LENGTHS},gold", "--algorithm=gdpo", "--group=4",
                        "--rollout_rows=4", "--sample_budget=32", "--entropy_target=9"),
    "online_dpo": ("sft", "tinytown:prompts?documents=64", TENSOR, f"--reward={LENGTHS}", "--xpo_alpha=1e-5",
                   "--max_new=8"),
    "distill": ("base", DIALOGS, FSDP, "--teacher=sft", "--on_policy=0.5"),
    "distill table": ("base", DIALOGS, TENSOR, "--teacher=sft", "--teacher_topk=8"),  # both build it, in one cache
}  # fmt: skip


def lengths(completions, **columns):
    """A reward that no two completions of a group are likely to share."""
    return [float(len(text)) for text in completions]


def command_of(town, stage, workdir):
    """The stage's command, and its flags."""
    (command, *_), (start, data, *own) = stage.split(), STAGES[stage]
    own = [f"--teacher={town / 'sft'}" if flag == "--teacher=sft" else flag for flag in own]
    if start is None:
        return command, (*SHORT, *own, town.cache, f"--workdir={workdir}")
    return command, town.flags(command, *SHORT, *own, f"--workdir={workdir}", start=start, data=data)


def in_two(town, stages, folder):
    """Runs the stages in two processes; the workdirs are those of the folder."""
    commands = folder / "commands.json"
    commands.write_text(json.dumps([command_of(town, stage, folder / stage) for stage in stages]))
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    in_two_processes(CHILD, commands, **quickly)


def in_one_process(town, stages, folder):
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "make", lambda run: make_plan(run, jax.devices()[:4]))
        for stage in stages:
            command, flags = command_of(town, stage, folder / stage)
            call(command, *flags)


def require_same_losses(town, stages, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    in_two(town, stages, two)
    in_one_process(town, stages, one)
    for stage in stages:
        alone, both = rows(one / stage), rows(two / stage)
        assert len(both) == len(alone) and any("loss" in row for row in alone)
        for a, b in zip(alone, both, strict=True):
            assert a.keys() == b.keys(), stage
            for name in a:
                np.testing.assert_allclose(
                    b[name], a[name], rtol=2e-5, atol=1e-6, err_msg=f"{stage}: {name} of {a['step']}"
                )


def test_ppo_in_two_processes(town, tmp_path):
    require_same_losses(town, ["ppo"], tmp_path)


@pytest.mark.slow
def test_the_other_stages_in_two(town, tmp_path):
    require_same_losses(town, [stage for stage in STAGES if not stage.startswith("ppo")], tmp_path)


@pytest.mark.slow
def test_two_processes_sample_a_damaged_rollout_again_to_the_bit(town, tmp_path):
    """Step 2 starts an iteration; its rollout is cut off, and the checkpoint after it is gone."""
    in_two(town, ["ppo again"], tmp_path)
    run, whole = tmp_path / "ppo again", tmp_path / "whole"
    shutil.copytree(run, whole)
    shutil.rmtree(run / "checkpoints" / "3")
    file = run / "rollouts" / "00000002.npz"
    file.write_bytes(file.read_bytes()[:-50])
    in_two(town, ["ppo again"], tmp_path)
    assert file.read_bytes() == (whole / "rollouts" / "00000002.npz").read_bytes()
    assert same_arrays(whole, run, 3) and rows(run) == rows(whole)


@pytest.mark.slow
def test_sigterm_to_one_of_two_is_answered_and_stops_both_at_the_same_step(town, tmp_path, free_port):
    _, flags = command_of(town, "pretrain", tmp_path / "run")
    command = [sys.executable, "-P", "-m", "experiments.pretrain", *flags, "--steps=100000"]
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2", "JAXTRAIN_NUM_PROCESSES": "2",
        "JAXTRAIN_COORDINATOR": f"127.0.0.1:{free_port}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        first, other = (
            stack.enter_context(subprocess.Popen(
                command, env={**env, "JAXTRAIN_PROCESS_ID": str(i)}, stdout=subprocess.PIPE,
                stderr=stack.enter_context((tmp_path / f"err{i}").open("w")), text=True,
            ))
            for i in range(2)
        )  # fmt: skip
        for process in (first, other):
            stack.callback(process.kill)
        assert any(line.startswith("step 1/") for line in first.stdout), (tmp_path / "err0").read_text()
        other.send_signal(signal.SIGTERM)
        said = first.communicate(timeout=300)[0]
        other.communicate(timeout=300)
    assert (first.returncode, other.returncode) == (143, 143)
    assert (
        "SIGTERM: stopping after this step, in at most 270 s; again: now" in (tmp_path / "err1").read_text()
    )
    step = int(re.search(r"stopped at step (\d+) of 100000; the same command resumes there", said)[1])
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
