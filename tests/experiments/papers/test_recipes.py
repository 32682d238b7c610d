"""The shared runs of experiments: the same flags for the same stage, and what completions are worth."""

from pathlib import Path

import pytest

from experiments.papers import recipes
from jaxtrain.files import atomic


class Recorded:
    """A SharedRuns that trains nothing: it records the commands and names a run by its place."""

    def __init__(self, folder):
        self.folder, self.seed, self.commands = folder, 3, []

    def train(self, *command):
        if command not in self.commands:
            self.commands.append(command)
        return Path(f"{command[0]}{self.commands.index(command)}")

    def rows(self, run):
        return [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval/loss": 3.0}]


@pytest.fixture
def runs(tmp_path):
    return Recorded(tmp_path / "shared")


def test_stages_share_their_parents(runs):
    recipes.ppo(runs)
    recipes.dpo(runs)
    assert [command[0] for command in runs.commands] == ["pretrain", "sft", "reward", "ppo", "dpo"]
    sft, reward, ppo = runs.commands[1:4]
    assert "--init_from=pretrain0" in sft and "--init_from=sft1" in reward
    assert {"--init_from=sft1", "--reward_model=reward2"} <= {*ppo}
    recipes.ppo(runs, None, None, "--kl_coef=0")
    assert len(runs.commands) == 6 and runs.commands[-1][-1] == "--kl_coef=0"


def test_what_completions_are_worth():
    prompt = "What is 2 + 3?"
    right, wrong = ({"prompt": prompt, "completion": text} for text in ("2 plus 3 makes 5.", "nonsense"))
    assert recipes.gold([right, wrong]) == [2.5, -1.0]
    assert recipes.win_rate([right, right, wrong, wrong], [wrong, right, right, wrong]) == 0.5
    assert recipes.win_rate([right], [wrong]) == 1.0
    assert recipes.measures([right, wrong])["sums"] == 0.5


def test_the_last_value_of_a_metric(runs):
    assert recipes.final(runs, Path("x"), "loss") == 1.0
    with pytest.raises(IndexError):
        recipes.final(runs, Path("x"), "accuracy")


def test_records_are_named_by_their_content(runs):
    first = recipes.write_records(runs, "x", [{"a": 1}])
    assert (
        first == recipes.write_records(runs, "x", [{"a": 1}]) != recipes.write_records(runs, "x", [{"a": 2}])
    )
    (file,) = [one for one in runs.folder.iterdir() if str(one) in first]
    assert atomic.read_jsonl(file) == [{"a": 1}] and file.name.startswith("x-3-")


def test_rows_of_the_world():
    rows = recipes.town_rows("preferences", "test", held_out=5, group="A")
    assert len(rows) == 5 and {"prompt", "chosen", "rejected", "p_win"} <= rows[0].keys()
