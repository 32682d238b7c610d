"""Every stage resumes on another number of devices: the same batches in the same order, numbers equal to 1e-5."""

import shutil

import jax
import numpy as np
import pytest

from jaxtrain.stages import trainer
from jaxtrain.train import parallel
from tests.runs import MODEL, arrays, call, quick, rows

STEPS, RESUMED = 4, 2
SHORT = (
    f"--steps={STEPS}",
    f"--checkpoint_every={RESUMED}",
    "--keep=9",
    "--warmup=1",
    "--lr=1e-3",
    "--log_every=1",
)
DIALOGS = "tinytown:sft?documents=96&held_out=24"
# It differs within a group. Where all rewards are equal the gradient is 0, and Adam divides what rounding makes of it.
LENGTHS = "def length(completions, **columns):\n    return [len(text) / 10 for text in completions]\n"
REWARD = "--reward={folder}/lengths.py:length"
STAGES = {
    "pretrain": (None, None, "--data=tinytown:pretrain?documents=300&held_out=40", f"--model={MODEL}",
                 "--tokenizer=bpe:400", "--seq_len=64", "--batch_size=8", "--eval_batches=1"),
    "sft": ("base", DIALOGS),
    "reward": ("sft", None),
    "dpo": ("sft", None),
    "ppo": ("sft", None, REWARD, "--epochs=2", "--minibatches=2", "--prompt_count=4", "--max_new=8"),
    "grpo": ("sft", None, REWARD, "--group=4", "--minibatches=4"),
    "distill": ("base", DIALOGS, "--teacher={sft}", "--on_policy=0.5"),
}  # fmt: skip


def train(town, stage, workdir, devices, monkeypatch):
    """The token ids of all batches of a run of the stage, which goes on where the workdir is."""
    start, data, *own = STAGES[stage]
    own = [flag.format(folder=town.folder, sft=town / "sft") for flag in own]
    (town.folder / "lengths.py").write_text(LENGTHS)
    flags = (*SHORT, *own, f"--workdir={workdir}")
    flags = (*flags, town.cache) if start is None else town.flags(stage, *flags, start=start, data=data)
    batches, fit, make = [], trainer.loop.fit, parallel.make

    def recorded(state, frozen, plan, step, next_batch, **rest):
        assert len(plan.devices) == devices

        def take(state):
            batch = next_batch(state)
            batches.append(np.array(batch["tokens"]))
            return batch

        return fit(state, frozen, plan, step, take, **rest)

    with quick(), monkeypatch.context() as patch:
        patch.setattr(parallel, "make", lambda run: make(run, jax.devices()[:devices]))
        patch.setattr(trainer.loop, "fit", recorded)
        call(stage, *flags)
    return batches


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_on_four_devices_where_it_was_on_one(town, stage, tmp_path, monkeypatch):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    first = train(town, stage, whole, 1, monkeypatch)
    shutil.copytree(whole, moved)
    shutil.rmtree(moved / "checkpoints" / str(STEPS))
    second = train(town, stage, moved, 4, monkeypatch)
    assert len(first) == STEPS and len(second) == STEPS - RESUMED
    for one, other in zip(first[RESUMED:], second, strict=True):
        assert np.array_equal(one, other), "the same batches in the same order"
    alone, both = rows(whole), rows(moved)
    assert len(both) == len(alone) > STEPS
    for a, b in zip(alone, both, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(
                b[name], a[name], rtol=1e-5, atol=1e-5, err_msg=f"{name} of {a['step']}"
            )
    wanted, found = arrays(whole, STEPS), arrays(moved, STEPS)
    assert wanted.keys() == found.keys()
    for path, value in wanted.items():
        if value.dtype == np.float32 and "params" in path:
            np.testing.assert_allclose(found[path], value, atol=1e-5, err_msg=path)
