"""GRPO and its kin from the command to the files they leave, and what both on-policy stages refuse."""

import shutil

import numpy as np
import pytest

from experiments import grpo
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError, Failure
from tests.experiments.test_reward import FLAGS as REWARD
from tests.runs import MODEL, arrays, call, quick, rows, same_arrays

FLAGS = (
    "--algorithm=dapo", "--group=4", "--steps=4", "--minibatches=2", "--lr=3e-3", "--resample=1", "--max_new=4",
    "--truncated=mask", "--overlong_buffer=2", "--checkpoint_every=1", "--keep=9",
)  # fmt: skip


def updates(workdir):
    return [row for row in rows(workdir) if "loss" in row]


@pytest.fixture(scope="module")
def reward(town):
    """Equal in many groups, not in all."""
    body = "def score(completions, **columns):\n    return [len(text) > 12 for text in completions]\n"
    (town.folder / "rule.py").write_text(body)
    return f"--reward={town.folder / 'rule.py'}:score"


@pytest.fixture(scope="module")
def dapo(town, reward):
    return town.run("grpo", "dapo", reward, *FLAGS)


def test_a_run_killed_in_the_middle_of_an_iteration_goes_on_to_the_same_bits(town, reward, dapo):
    copy = town.resumed("grpo", "dapo", 3, reward, *FLAGS)
    assert same_arrays(dapo, copy, 4) and rows(copy) == rows(dapo)


def test_the_policy_of_a_checkpoint_samples_a_lost_rollout_again_to_the_bit(town, reward, dapo):
    """Step 3 is in the middle of an iteration; that of step 2 starts with it."""
    copy = town / "dapo-lost"
    shutil.copytree(dapo, copy)
    for lost in ("checkpoints/4", "rollouts"):
        shutil.rmtree(copy / lost)
    with pytest.warns(UserWarning) as told:
        said = town.again("grpo", copy.name, reward, *FLAGS)
    first = str(told[0].message)
    assert "checkpoints/3: " in first and "rollouts/00000002.npz is missing. Falling back" in first
    assert "rollouts/00000002.npz is missing: sampled from the policy of step 2\n" in said
    assert "resuming from step 2 " in said and rows(copy) == rows(dapo) and same_arrays(dapo, copy, 4)
    one, two = (folder / "rollouts" / "00000002.npz" for folder in (dapo, copy))
    assert one.read_bytes() == two.read_bytes()


def test_groups_are_drawn_again_and_the_masked_are_still_counted(dapo):
    found = updates(dapo)
    first = found[0]
    assert first["val/ratio"] == pytest.approx(1, abs=1e-5) and "objective/kl" not in first
    assert 0 < sum(row["completions/redrawn"] for row in found) / len(found) <= 1
    assert 0 < first["completions/clipped_ratio"] < 1, "rows without an end are out of the loss, and counted"
    assert first["completions/mean_length"] > 1


def test_learning_from_groups_whose_scores_are_equal_changes_nothing(town, tmp_path):
    """Every score 1: no advantage, and the run says so."""
    (tmp_path / "same.py").write_text(
        "def score(completions, **columns):\n    return [1 for _ in completions]\n"
    )
    run = town.run(
        "grpo", "same", f"--reward={tmp_path / 'same.py'}:score", "--algorithm=dr_grpo", "--group=2", "--steps=1",
        "--warmup=0",
        "--minibatches=2",
    )  # fmt: skip
    (first,) = updates(run)
    assert first["frac_reward_zero_std"] == 1 and first["objective/scores"] == 1 and first["grad_norm"] == 0
    start, held = arrays(town / "sft", 16), arrays(run, 1)
    for name, x in held.items():
        if name.startswith("['params']"):
            assert np.array_equal(x, start[name]), name


def test_an_algorithm_is_values_of_flags_and_a_flag_goes_before_it():
    def resolved(*given):
        return command_line.from_flags(grpo.Grpo, list(given)).loss.resolved()

    assert resolved() == grpo.COMMON | {"kl_weight": 0.04}
    assert {name: resolved(f"--algorithm={name}") for name in grpo.USUAL} == {
        name: grpo.COMMON | values for name, values in grpo.USUAL.items()
    }
    given = resolved("--algorithm=dapo", "--scale=none", "--clip_ratio_high=0.5", "--kl_weight=0.1")
    assert given == grpo.COMMON | grpo.USUAL["dapo"] | {
        "scale": "none", "clip_ratio_high": 0.5, "kl_weight": 0.1,
    }  # fmt: skip
    assert resolved("--kl_weight=0")["kl_weight"] == 0
    for name in grpo.USUAL:
        assert resolved(f"--algorithm={name}").keys() == grpo.COMMON.keys()


@pytest.mark.parametrize("name", ["rloo", "gspo", "cispo", "reinforce++"])
def test_each_algorithm_takes_its_first_step(town, name):
    said = call_dry(town, f"--algorithm={name}", "--reward=correct", "--group=2", "--dry_run")
    assert "first step" in said and "val/ratio" in said


def call_dry(town, *flags, stage="grpo", **options):
    plain = ("--ptx_weight=0",) if stage == "ppo" else ()
    with quick():
        return call(stage, *town.flags(stage, *plain, *flags, **options))


PPO = [
    ((), "--reward_model, --reward: name one of them"),
    (("--reward=gold", "--reward_model=x"), "--reward_model, --reward: name one of them"),
    (("--reward=nothing:there",), "--reward=nothing:there"),
    (("--reward_model={sft}",), "a run of sft; name one of ./launch/run reward"),
    (("--reward=gold", "--group=3"), "--group=3 completions of a prompt do not divide an iteration's 16"),
    (("--reward=gold", "--max_new=48"), "--max_new=48: --seq_len=48 leaves no room for a prompt"),
    (("--reward=gold", "--max_new=46", "--too_long=drop"), "no prompt fits 2 tokens"),
    (
        ("--reward=gold", "--data=tinytown:prompts*0.5,tinytown:redteam*0.5"),
        "all prompts are sampled equally often",
    ),
    (("--reward=gold", "--value=reward"), "--value=reward: there is no --reward_model"),
    (("--reward=gold", "--value=head", "--value_lr=1e-3"), "--value_lr: --value=head shares"),
    (("--reward=gold", "--ptx_data=tinytown:sft"), "--ptx_data: acts only with --ptx_weight above 0"),
    (("--reward=gold", "--kl_horizon=5"), "--kl_horizon=5.0: acts only with --kl_target"),
    (("--reward=gold", "--kl_target=5", "--kl_coef=0"), "--kl_coef=0 cannot grow"),
    (("--reward=gold", "--truncate_from=3"), "--truncate_from=3: acts only with --truncate_at"),
    (("--reward=gold", "--truncate_at=nosuchtoken"), "the tokenizer has no token with this text"),
    (("--reward=gold", "--ensemble=min"), "--ensemble=min: --reward=gold has no members"),
    (("--reward=gold", "--resample=2"), "--resample=2"),
    (("--reward=gold", "--stop_kl=1", "--minibatches=1", "--epochs=1"), "--stop_kl=1.0"),
    (("--reward=gold", "--overlong_buffer=13"), "--overlong_buffer=13: more than --max_new=12"),
]


@pytest.mark.parametrize(("flags", "message"), PPO)
def test_ppo_refuses_what_cannot_be(town, flags, message):
    given = [flag.format(sft=town / "sft") for flag in flags]
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace("*", r"\*")):
        call_dry(town, "--dry_run", *given, stage="ppo")


def test_a_reward_model_must_have_the_policy_s_words(town, tmp_path):
    rm = town.run("reward", "rm", *REWARD)
    other = tmp_path / "other"
    with quick():
        call(
            "pretrain", "--data=tinytown:pretrain?documents=60&held_out=20", f"--model={MODEL}", town.cache,
            "--tokenizer=byte", "--steps=2", "--warmup=1", f"--workdir={other}", "--eval_batches=1", "--seq_len=64",
        )  # fmt: skip
    with pytest.raises(ConfigError, match="its tokenizer is not the policy's"):
        call_dry(town, f"--reward_model={rm}", "--dry_run", stage="ppo", start=str(other))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no idea')", r"score raised at .*ValueError: no idea"),
        ("return [float('nan') for _ in completions]", r"score returned nan"),
        ("return [1.0]", r"score returned 1 numbers for 16 completions"),
    ],
)
def test_a_reward_function_that_fails_ends_the_run_and_names_itself(town, tmp_path, body, message):
    (tmp_path / "bad.py").write_text(f"def score(completions, **columns):\n    {body}\n")
    with pytest.raises(Failure, match=message):
        call_dry(town, f"--reward={tmp_path / 'bad.py'}:score", "--dry_run", stage="ppo")
