"""What the flags about samplers, rewards and entropy do in runs of GRPO and PPO, which resume to the bit with them."""

import json
import shutil

import numpy as np
import pytest

from experiments import grpo, ppo
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from tests.runs import rows, same_arrays

RULES = """
def long(completions, **columns):
    return [len(text) > 12 for text in completions]

def odd(completions, **columns):
    return [len(text) % 2 for text in completions]

def words(completions, steps, **columns):
    return [[len(step) for step in each] for each in steps]
"""
FLAGS = (
    "--algorithm=gdpo", "--group=4", "--steps=4", "--minibatches=2", "--lr=3e-3", "--max_new=4", "--checkpoint_every=1",
    "--keep=9", "--is_cap=2", "--is_mask=0.5,5", "--entropy_coef=.01", "--entropy_target=20", "--sample_budget=48",
    "--rollout_rows=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def rules(town):
    (town.folder / "rules.py").write_text(RULES)
    return town.folder / "rules.py"


def test_gdpo_with_weights_of_tokens_and_an_adaptive_bonus_resumes_to_the_bit(town, rules):
    flags = (f"--reward={rules}:long*2,{rules}:odd", *FLAGS)
    run = town.run("grpo", "gdpo", *flags)
    found = [row for row in rows(run) if "loss" in row]
    assert [row["policy/entropy_coef"] for row in found] == pytest.approx([0.01, 0.01, 0.015, 0.015])
    for row in found:
        assert row["sampling/importance_weight"] == pytest.approx(1, abs=1e-3) and row["sampling/masked"] == 0
        assert 0 < row["sampling/logp_difference"] <= row["sampling/logp_difference_max"] < 1e-3
        assert 16 <= row["completions/sampled"] <= 48
    copy = town.resumed("grpo", "gdpo", 3, *flags)
    assert same_arrays(run, copy, 4) and rows(copy) == rows(run)


ASYNC = (
    "--algorithm=grpo", "--group=2", "--steps=8", "--minibatches=2", "--lr=3e-2", "--max_new=4", "--checkpoint_every=1",
    "--keep=9", "--is_cap=2", "--async_steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def ahead(town, rules):
    return town.run("grpo", "ahead", f"--reward={rules}:odd", *ASYNC)


def test_rollouts_ahead_are_of_the_policy_of_an_iteration_before(town, rules, ahead):
    """The first two iterations are of the first policy; from then on its tokens have weights."""
    found = [row for row in rows(ahead) if "loss" in row]
    gap = [row["sampling/logp_difference"] for row in found]
    assert max(gap[:2]) < 1e-4 and min(gap[2:]) > 1e-3
    assert all(row["val/ratio"] == pytest.approx(1, abs=1e-4) for row in found[::2]), (
        "old log-probs are the trainer's"
    )
    assert any(abs(row["sampling/importance_weight"] - 1) > 1e-3 for row in found[2:])
    # A run that samples in time has the first iteration's rollout, and the second one's tokens otherwise.
    plain = town.run("grpo", "in_time", f"--reward={rules}:odd", *ASYNC[:-1])
    one, other = (np.load(run / "rollouts" / "00000006.npz")["tokens"] for run in (ahead, plain))
    assert one.shape == other.shape and not np.array_equal(one, other)


def cut_off(town, run, name, step):
    """A copy of a run as it was at a step, without the files of later ones."""
    copy = town / name
    shutil.copytree(run, copy)
    for folder in (copy / "checkpoints").iterdir():
        if folder.name.isdecimal() and int(folder.name) > step:
            shutil.rmtree(folder)
    for file in (copy / "rollouts").iterdir():
        if int(file.name.split(".")[0]) >= step:
            file.unlink()
    return copy


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_that_samples_ahead_resumes_to_the_bit(town, rules, ahead, step):
    """In the middle of an iteration, and between two, where the next one's completions are on the disk alone."""
    copy = cut_off(town, ahead, f"ahead-{step}", step)
    town.again("grpo", copy.name, f"--reward={rules}:odd", *ASYNC)
    assert same_arrays(ahead, copy, 8) and rows(copy) == rows(ahead)


def test_completions_that_are_lost_send_the_run_back_to_a_checkpoint_before(town, rules, ahead):
    copy = cut_off(town, ahead, "ahead-lost", 4)
    (copy / "rollouts" / "00000002.next").write_bytes(b"damaged")
    with pytest.warns(UserWarning) as told:
        said = town.again("grpo", copy.name, f"--reward={rules}:odd", *ASYNC)
    assert "00000002.next is damaged" in "".join(str(one.message) for one in told)
    assert "resuming from step 2 " in said and same_arrays(ahead, copy, 8) and rows(copy) == rows(ahead)


def test_ppo_has_the_scores_of_steps(town, rules):
    flags = (
        f"--reward={rules}:long",
        f"--process_reward={rules}:words*0.1",
        "--step_separator= ",
        "--ptx_weight=0",
    )
    run = town.run("ppo", "steps", *flags, "--steps=1", "--warmup=0", "--minibatches=1", "--epochs=1")
    (row,) = (row for row in rows(run) if "loss" in row)
    assert row["process/steps"] > 1 and row["rewards/process/mean"] > 0
    lines = (run / "samples" / "rollouts" / "00000000.jsonl").read_text().splitlines()
    one = json.loads(lines[0])
    scores = [float(text) for text in one["extra"]["step_scores"].split(", ")]
    assert scores == pytest.approx(
        [0.1 * len(word) for word in one["completion"].split(" ") if word], rel=1e-3
    )
    assert one["score"] == pytest.approx((len(one["completion"]) > 12) + sum(scores), abs=1e-3)


@pytest.mark.parametrize(
    "module, argv, message",
    [
        (grpo, "--algorithm=gdpo --reward=gold", "normalises several rewards one by one, and there is one"),
        (
            grpo,
            "--algorithm=gdpo --reward=gold,correct --scale=none",
            "--scale=none: normalize_then_sum has the group",
        ),
        (grpo, "--reward=gold --sample_budget=9", "--sample_budget=9: an iteration samples 16 completions"),
        (ppo, "--reward=gold --async_steps=1", "--async_steps=1: completions are of an older policy"),
        (ppo, "--reward=gold --async_steps=2 --is_cap=2", "--async_steps=2: must be at most 1"),
        (
            ppo,
            "--ptx_weight=0 --reward=gold --process_reward=nothing:there",
            "--process_reward=nothing:there",
        ),
        (ppo, "--reward=gold --step_separator=;", "--step_separator=;: acts only with --process_reward"),
        (
            ppo,
            "--ptx_weight=0 --reward=gold --entropy_step=1",
            "--entropy_step=1.0: acts only with --entropy_target above 0",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(town, module, argv, message):
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(ConfigError, match=message):
        argv = town.flags(name, f"--workdir={town / 'refused'}", *argv.split())
        module.main(command_line.from_flags(getattr(module, name.capitalize()), list(argv)))
