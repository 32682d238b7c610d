"""Episodes of environments from the command to the files they leave, with the example of docs/rl.md."""

import json
import re

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rl import gsm8k
from tests.runs import ROOT, call, jsonl, quick, rows, same_arrays

FLAGS = (
    "--steps=3", "--minibatches=1", "--epochs=2", "--checkpoint_every=1", "--keep=9", "--lr=3e-3", "--max_turns=3",
    "--max_new=6", "--seq_len=64",
)  # fmt: skip
PPO = (*FLAGS, "--ptx_weight=0", "--bootstrap=true", "--kl_coef=0.1")


@pytest.fixture(scope="module")
def guess(town):
    """The flag of the environment that the page prints."""
    page = (ROOT / "docs" / "rl.md").read_text(encoding="utf-8").partition("## Environments")[2]
    file = town.folder / "games.py"
    file.write_text(re.search(r"```python\n(.*?)```", page, re.S)[1], encoding="utf-8")
    return f"--env={file}:Guess"


@pytest.fixture(scope="module")
def ppo(town, guess):
    return town.run("ppo", "ppo-guess", guess, *PPO)


def updates(workdir):
    return [row for row in rows(workdir) if "loss" in row]


def rollout(workdir, first):
    """(the columns of an iteration, its episodes as samples/rollouts has them)."""
    with np.load(workdir / "rollouts" / f"{first:08d}.npz") as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    lines = (workdir / "samples" / "rollouts" / f"{first:08d}.jsonl").read_text().splitlines()
    return columns, [json.loads(line) for line in lines]


def test_the_example_of_the_page_trains_and_its_first_update_is_at_the_policy_that_sampled(ppo):
    first = updates(ppo)[0]
    assert first["val/ratio"] == pytest.approx(1, abs=1e-5) and first["objective/kl"] == pytest.approx(
        0, abs=1e-4
    )
    assert {
        "environment/right",
        "environment/turns",
        "environment/full",
        "environment/faults",
    } <= first.keys()
    assert 1 < first["environment/turns"] <= 3 and first["environment/faults"] == 0
    assert "judge/gold" not in first and "reward" not in str(ppo / "config.json")


def test_completions_alone_are_in_the_loss_and_stand_in_one_row_with_what_is_said_to_them(ppo):
    columns, episodes = rollout(ppo, 0)
    for row, episode in enumerate(episodes):
        turns, mask = episode["turns"], columns["mask"][row] > 0
        starts = np.flatnonzero(mask & ~np.concatenate([[False], mask[:-1]]))
        assert len(starts) == sum(turn["role"] == "assistant" for turn in turns)
        assert turns[0] == {"role": "user", "content": "Guess a number from 1 to 9."}
        assert turns[-1]["role"] == "assistant" and episode["completion"].endswith(turns[-1]["content"])
        assert sum(turn.get("reward", 0) for turn in turns) == pytest.approx(episode["score"])
    assert (columns["advantages"][columns["mask"] == 0] == 0).all()
    assert len({len(episode["turns"]) for episode in episodes}) > 1


def test_a_run_killed_in_the_middle_of_an_iteration_goes_on_to_the_same_bits(town, guess, ppo):
    copy = town.resumed("ppo", "ppo-guess", 1, guess, *PPO)
    assert same_arrays(ppo, copy, 3) and rows(copy) == rows(ppo)


MIXED = '''
from jaxtrain.rl.environments import Observation


class Fails:
    """Raises at the second turn of an odd seed."""

    def reset(self, row, seed):
        self.odd, self.turn = seed % 2, 0
        return [{"role": "user", "content": row["prompt"]}]

    def step(self, completion):
        self.turn += 1
        if self.odd and self.turn == 2:
            raise RuntimeError("the server is away")
        return Observation([{"role": "user", "content": "And?"}], 0.25, self.turn == 2)


def short(prompts, completions, messages, completion_ids, **columns):
    assert all(conversation[-1]["role"] == "user" for conversation in messages)
    return [-len(ids) / 8 for ids in completion_ids]
'''
GRPO = (*FLAGS, "--group=2", "--seed=1", "--algorithm=dapo")


@pytest.fixture(scope="module")
def mixed(town, guess):
    file = town.folder / "mixed.py"
    file.write_text(MIXED, encoding="utf-8")
    return f"{guess}*0.5,{file}:Fails", f"--reward={file}:short"


def test_groups_of_several_environments_with_a_reward_function_resume_to_the_same_bits(town, mixed):
    flags = (*mixed, "--on_env_error=skip", *GRPO)
    run = town.run("grpo", "grpo-mixed", *flags)
    copy = town.resumed("grpo", "grpo-mixed", 1, *flags)
    assert same_arrays(run, copy, 3) and rows(copy) == rows(run)
    both = [rollout(run, first) for first in (0, 2)]
    faults = np.concatenate([columns["stats/environment/faults"] for columns, _ in both])
    assert 0 < faults.sum() < len(faults), "of the two iterations some episodes failed"
    for columns, episodes in both:
        require_left_out(columns, columns["stats/environment/faults"] > 0)
        require_compared(columns, episodes)
    names = {name for row in updates(run) for name in row}
    assert {
        "rewards/environment/mean", "rewards/short/mean", "environment/Guess/reward", "completions/unscored",
    } <= names  # fmt: skip


def require_left_out(columns, failed):
    assert np.isnan(columns["stats/objective/scores"]).tolist() == failed.tolist()
    assert (columns["mask"][failed] == 0).all() and (columns["advantages"][failed] == 0).all()


def require_compared(columns, episodes):
    """Each episode has its advantage in its pair: of the environment's rewards and of the last completion's score."""
    scores, short = columns["stats/objective/scores"], columns["stats/rewards/short/mean"]
    here = ~np.isnan(scores)
    assert scores[here] == pytest.approx((columns["stats/rewards/environment/mean"] + short)[here])
    assert (short[here] >= -6 / 8).all() and (short[here] < 0).all(), "of the last completion alone"
    for first in range(0, len(scores), 2):
        pair = scores[first : first + 2]
        assert episodes[first]["turns"][0] == episodes[first + 1]["turns"][0], "a group starts alike"
        if np.isfinite(pair).all():
            wanted = (pair - pair.mean()) / (pair.std(ddof=1) + 1e-4)
            found = [columns["advantages"][row][columns["mask"][row] > 0][0] for row in (first, first + 1)]
            assert found == pytest.approx(wanted.tolist(), abs=1e-4)


def test_the_environments_of_the_world_take_their_first_step(town):
    names = ",".join(f"tinytown:{name}" for name in ("search", "calculator", "twenty_questions"))
    with quick():
        said = call("grpo", *town.flags("grpo", f"--env={names}", "--dry_run", "--seq_len=128", "--group=2"))
    assert "first step" in said and "tinytown:search 33%, tinytown:calculator 33%" in said
    assert "has no place for a tool's result: it is written as a user's turn" in " ".join(said.split())


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--env=tinytown:chess",), "no environment tinytown:chess; there are tinytown:search, "),
        (("--env=nowhere:Env",), "no module nowhere"),
        (
            ("--env=tinytown:search", "--reward=gold", "--reward_model=x"),
            "--reward_model, --reward: name one of them",
        ),
        (("--max_turns=3",), "--max_turns: acts only with --env"),
        (
            ("--env=tinytown:search", "--watch_reward=gold"),
            "--watch_reward=gold: it is about single completions",
        ),
        (
            ("--env=tinytown:search", "--overlong_buffer=2"),
            "--overlong_buffer=2: it is about single completions",
        ),
        (
            ("--env=tinytown:search", "--stop_at_end=false"),
            "--stop_at_end=false: it is about single completions",
        ),
        (
            ("--env=tinytown:search", "--seq_len=24"),
            "which leave no room for --max_new=12 in --seq_len=24: raise it",
        ),
    ],
)
def test_what_cannot_be_is_refused(town, flags, message):
    with pytest.raises(ConfigError, match=re.escape(message)), quick():
        call("ppo", *town.flags("ppo", "--ptx_weight=0", "--dry_run", *flags))


PAIRS = [(a, b) for a in (2, 3) for b in (4, 5, 6, 7)]


def test_word_problems_with_a_calculator_train_and_say_what_they_left_out(town):
    sums = [
        {"question": f"What is {a} + {b}?", "answer": f"<<{a}+{b}={a + b}>>\n#### {a + b}"} for a, b in PAIRS
    ]
    long = {"question": "What " + "is it " * 80 + "?", "answer": "#### 1"}
    source = jsonl(town.folder / "sums.jsonl", [*sums, {"question": "What?", "answer": "none"}, long])
    flags = (f"--env=gsm8k:{source}", "--on_bad_record=skip", "--group=2", *FLAGS)
    with pytest.raises(ConfigError, match="none of its 9 problems leaves room"):
        town.run("grpo", "gsm8k-short", *flags)
    flags = (*flags, "--seq_len=160")
    run = town.run("grpo", "gsm8k", *flags)
    said = " ".join(town.said["gsm8k"].split())
    assert (
        "8 problems of" in said and "1 bad record skipped" in said and "1 problems that leave no room" in said
    )
    assert "final answers are compared by" in said
    first = updates(run)[0]
    assert first["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert {"environment/success", "environment/no_answer", "environment/tool_errors"} <= first.keys()
    _, episodes = rollout(run, 0)
    assert {episode["turns"][0]["content"].partition("?")[0] for episode in episodes} <= {
        f"What is {a} + {b}" for a, b in PAIRS
    }
    copy = town.resumed("grpo", "gsm8k", 1, *flags)
    assert same_arrays(run, copy, 3) and rows(copy) == rows(run)
    jsonl(town.folder / "sums.jsonl", sums)
    gsm8k.read_problems.cache_clear()
    with pytest.raises(ConfigError, match="data"):
        town.again("grpo", "gsm8k", *flags)
