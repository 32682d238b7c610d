"""Runs with products in int8 and fp8: they resume, load anywhere, and start where their stage must start."""

import math

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from tests.runs import arrays, call, column, quick, rows, same_arrays

FLAGS = ("--steps=6", "--checkpoint_every=4", "--keep=9", "--lr=0.02")
SHORT = ("--steps=3", "--minibatches=2", "--lr=1e-3", "--reward=gold")
kinds = pytest.mark.parametrize("kind", ["int8", "fp8"])


@pytest.fixture(scope="module")
def plain(town):
    return town.run("sft", "sft-matmul-auto", *FLAGS)


@kinds
def test_a_run_resumes_to_the_bit_and_its_parameters_are_those_of_any_run(town, plain, kind):
    name, flag = f"sft-matmul-{kind}", f"--matmul_dtype={kind}"
    run = town.run("sft", name, *FLAGS, flag)
    again = town.resumed("sft", name, 4, *FLAGS, flag)
    assert rows(again) == rows(run)
    same_arrays(run, again, 6)
    held, other = arrays(run, 6), arrays(plain, 6)
    assert {path: (x.dtype, x.shape) for path, x in held.items()} == {
        path: (x.dtype, x.shape) for path, x in other.items()
    }
    assert not np.array_equal(*(x["['params']['layers']['mlp']['up']['kernel']"] for x in (held, other)))
    losses = [np.array(column(each, "loss")) for each in (run, plain)]
    assert 1e-6 < np.abs(losses[0] - losses[1]).max() < 0.1
    with quick():  # without the flag, and with it
        for more in ((), (flag,)):
            said = call(
                "sample",
                f"--init_from={run}",
                town.cache,
                *more,
                "--max_new=4",
                "--temperature=0",
                "--prompt=Why",
            )
            assert said.strip()


def test_the_flag_may_change_when_a_run_is_resumed(town, plain):
    again = town.resumed("sft", "sft-matmul-auto", 4, *FLAGS, "--matmul_dtype=int8")
    before, after = column(plain, "loss"), column(again, "loss")
    assert before[0] == after[0] and before[-1] != after[-1]
    assert before[-1] == pytest.approx(after[-1], abs=0.1)


@pytest.mark.parametrize("kind", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_dpo_starts_at_the_reference(town, kind):
    run = town.run("dpo", f"dpo-matmul-{kind}", "--steps=3", "--lr=1e-3", f"--matmul_dtype={kind}")
    first = rows(run)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-3)


ROLLOUTS = [("ppo", "int8"), ("grpo", "fp8")] + [
    pytest.param(*each, marks=pytest.mark.slow) for each in (("ppo", "fp8"), ("grpo", "int8"))
]


@pytest.mark.parametrize(("stage", "kind"), ROLLOUTS)
def test_on_policy_stages_sample_from_the_policy_that_they_train(town, stage, kind):
    """By decode on codes made once a rollout, and by the forward pass of training: the same codes, and scales."""
    more = ("--value=policy",) if stage == "ppo" else ("--group=2", "--kl_coef=0.1")
    run = town.run(stage, f"{stage}-matmul-{kind}", *SHORT, *more, f"--matmul_dtype={kind}")
    first = rows(run)[0]
    assert first["val/ratio"] == pytest.approx(1, abs=1e-3)
    assert first["policy/approxkl_avg"] == pytest.approx(0, abs=1e-4)
    assert first["objective/kl"] == pytest.approx(0, abs=1e-3)
    if "sampling/logp_difference" in first:
        assert first["sampling/logp_difference"] < 1e-3


def test_what_makes_no_sense_is_refused_and_leaves_no_run(town, tmp_path):
    def refused(*flags, start="sft"):
        with quick(), pytest.raises(ConfigError) as error:
            call("sft", *town.flags("sft", f"--workdir={tmp_path / 'none'}", *FLAGS, *flags, start=start))
        assert not (tmp_path / "none").exists()
        return str(error.value)

    said = refused("--matmul_dtype=fp8", "--base_weights=int8", "--lora_rank=2")
    assert said.startswith("--matmul_dtype=fp8: ") and "--base_weights=float32" in said
    moe = "--model=tinytown-200k,layers=1,width=32,heads=2,ff=64,experts=4,experts_per_token=2"
    with quick(), pytest.raises(ConfigError, match="--matmul_dtype=int8: the model has 4 experts"):
        call("pretrain", moe, "--data=tinytown:pretrain?documents=300&held_out=40", town.cache, "--tokenizer=bpe:400",
             "--steps=2", "--matmul_dtype=int8", f"--workdir={tmp_path / 'none'}")  # fmt: skip
    assert not (tmp_path / "none").exists()
