"""What the flags about samplers, rewards and entropy do in runs of GRPO and PPO, which resume to the bit with them."""

import json

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
        (ppo, "--reward=gold --process_reward=nothing:there", "--process_reward=nothing:there"),
        (ppo, "--reward=gold --step_separator=;", "--step_separator=;: acts only with --process_reward"),
        (
            ppo,
            "--reward=gold --entropy_step=1",
            "--entropy_step=1.0: acts only with --entropy_target above 0",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(town, module, argv, message):
    name = module.__name__.rpartition(".")[2]
    with pytest.raises(ConfigError, match=message):
        argv = town.flags(name, f"--workdir={town / 'refused'}", *argv.split())
        module.main(command_line.from_flags(getattr(module, name.capitalize()), list(argv)))
