"""--watch_reward from the command to the files it leaves: a reward that likes length, and one that does not."""

import json
import re

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.files import atomic
from jaxtrain.train import workdir
from tests.experiments.test_reward import FLAGS as REWARD
from tests.runs import rows, same_arrays

RULES = """
def long(completions, **columns):
    return [float(len(text)) for text in completions]
def apt(completions, **columns):
    return [-abs(len(text) - 24.0) for text in completions]
"""
FLAGS = (
    "--algorithm=dr_grpo", "--group=4", "--steps=60", "--minibatches=1", "--lr=1e-2", "--eval_every=5",
    "--stop_on_overoptimisation",
)  # fmt: skip
SHORT = (
    "--algorithm=dr_grpo",
    "--group=2",
    "--steps=4",
    "--minibatches=2",
    "--lr=3e-3",
    "--keep=9",
    "--max_new=4",
)


@pytest.fixture(scope="module")
def rewards(town):
    (town.folder / "lengths.py").write_text(RULES)
    return [
        f"--{flag}={town.folder / 'lengths.py'}:{name}"
        for flag, name in (("reward", "long"), ("watch_reward", "apt"))
    ]


@pytest.fixture(scope="module")
def stopped(town, rewards):
    return town.run("grpo", "exploited", *rewards, *FLAGS)


def test_a_run_stops_once_the_watched_reward_has_turned(town, stopped):
    said, last = town.said["exploited"], rows(stopped)[-1]["step"]
    assert 10 < last < 60
    assert f"stopped at step {last} of 60; the watched reward turned at step " in said
    assert "the same command resumes" not in said
    watched = {
        row["step"]: row["objective/watch_reward"] for row in rows(stopped) if "objective/watch_reward" in row
    }
    assert watched[last] < max(watched.values()) - 5
    first, *_, newest = [row["objective/scores"] for row in rows(stopped) if "loss" in row]
    assert newest > first + 10, "the trained reward saw nothing of it"


def test_the_best_checkpoint_is_the_one_with_the_most_of_it(town, stopped):
    said = town.said["exploited"]
    held_out = {row["step"]: row["eval/watch_reward"] for row in rows(stopped) if "eval/watch_reward" in row}
    best = max(held_out, key=held_out.get)
    assert workdir.split_step(f"{stopped}@best") == (stopped, best) and best < max(held_out)
    assert (
        f"best checkpoint: step {best}, eval/watch_reward {held_out[best]:.4g}; the last one is step " in said
    )
    for row in rows(stopped):
        assert (
            ("eval/scores" in row)
            == ("eval/watch_reward" in row)
            == (row["step"] in held_out and "lr" not in row)
        )


def test_the_run_says_what_its_metrics_suggest_and_leaves_a_picture(town, stopped):
    said = " ".join(town.said["exploited"].split())
    assert "what the metrics say The score rises while the watched reward falls" in said
    page = (stopped / "curves.html").read_text()
    charts = [json.loads(one) for one in re.findall(r'type="application/json">(.*?)</script>', page)]
    assert [one["label"] for one in charts[0]["series"]] == ["score", "watched reward"]
    assert {one["x"] for one in charts} == {"step (updates)"} and ["tokens"] in [
        one["units"] for one in charts
    ]
    assert all(one["marks"][0]["label"].startswith("turn, step ") for one in charts)
    lines = atomic.read_jsonl(sorted((stopped / "samples" / "rollouts").glob("*.jsonl"))[0])
    assert all(line["watched"] == -abs(len(line["completion"]) - 24.0) for line in lines)


def test_a_run_that_is_killed_stops_at_the_same_step_to_the_bit(town, rewards, stopped):
    best = workdir.split_step(f"{stopped}@best")[1]
    copy = town.resumed("grpo", "exploited", best, *rewards, *FLAGS)
    last = rows(stopped)[-1]["step"]
    assert rows(copy) == rows(stopped) and same_arrays(stopped, copy, last)
    said = town.again("grpo", "exploited", *rewards, *FLAGS)
    assert f"stopped at step {last} of 60; the watched reward turned at step " in said
    assert rows(copy) == rows(stopped), "the same command again changes nothing"


@pytest.fixture(scope="module")
def kept(town, rewards):
    return town.run("grpo", "kept", rewards[0], *SHORT, "--keep_best=eval/scores", "--eval_every=2")


def test_a_watched_reward_has_no_part_in_training(town, rewards, kept):
    watched = town.run("grpo", "watched", *rewards, *SHORT, "--watch_every=2")
    assert same_arrays(kept, watched, 4)
    updates = [row for row in rows(watched) if "loss" in row]
    there = [row.get("objective/watch_reward") is not None for row in updates]
    assert there == [True, True, False, False], "every second iteration, of two updates"
    other = [{name: x for name, x in row.items() if name != "objective/watch_reward"} for row in updates]
    assert other == [row for row in rows(kept) if "loss" in row]


def test_a_reward_model_may_be_watched_and_is_recorded_with_its_step(town, rewards):
    model = town.run("reward", "rm", *REWARD)
    run = town.run("grpo", "watched-rm", rewards[0], f"--watch_reward={model}", *SHORT)
    step = workdir.newest_step(model)
    assert json.loads((run / "config.json").read_text())["watch_reward"] == f"{model}@{step}"
    assert f"watched reward    {model}, step {step}" in town.said["watched-rm"]
    assert all(abs(row["objective/watch_reward"]) < 100 for row in rows(run) if "loss" in row)
    assert [row["step"] for row in rows(run) if "eval/watch_reward" in row] == [4]


def test_the_best_checkpoint_may_be_kept_by_the_trained_reward_on_held_out_prompts(town, rewards, kept):
    run = kept
    held_out = {row["step"]: row["eval/scores"] for row in rows(run) if "eval/scores" in row}
    assert [*held_out] == [2, 4]
    assert workdir.split_step(f"{run}@best")[1] == max(held_out, key=held_out.get)
    shown = atomic.read_jsonl(run / "samples" / "00000004.jsonl")
    assert held_out[4] == pytest.approx(sum(len(one["completion"]) for one in shown) / len(shown))
    with pytest.raises(
        ConfigError, match="--keep_best=eval/gain: evaluation has no such metric; choose one of eval/scores"
    ):
        town.run("grpo", "kept-none", rewards[0], *SHORT, "--keep_best=eval/gain:max")


def test_held_out_prompts_must_fit(town, rewards):
    long = town.folder / "long-prompts.jsonl"
    long.write_text(json.dumps({"prompt": "Please help me bore a sofa. " * 20}) + "\n")
    with pytest.raises(
        ConfigError, match=r"--prompts=jsonl:.*: no prompt fits 44 tokens \(--seq_len less --max_new\)"
    ):
        town.run("grpo", "too-long", *rewards, *SHORT, f"--prompts=jsonl:{long}")
