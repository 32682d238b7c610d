"""Experiments whole but for training: their commands are accepted, and their criteria read what they measure."""

import dataclasses
import importlib

import pytest

from experiments.papers.recipes import CorpusFlags
from jaxtrain.apps.papers import figures
from jaxtrain.apps.papers.config import PaperTrial
from jaxtrain.apps.papers.verdicts import Check
from tests.experiments.papers.commands import CommandRuns

SMALL = {
    "rm_data_scaling": 8, "rm_heldout_annotators": 2, "rm_kwise": 3, "instructgpt": 8, "ppo_kl_sweep": 6, "ppo_ptx": 5,
    "n_details": 7, "kd_lm": 6, "gkd": 6, "lr_sensitivity": 14, "synthetic_data": 3, "chinchilla_fit": 16,
    "cai_revisions": 2, "cai_principles": 4, "cai_critique_ablation": 6, "sl_cai": 3, "rl_cai": 12,
}  # fmt: skip  # experiment -> the fewest commands of its own


def config_of(module):
    (kind,) = [
        one for name, one in vars(module).items()
        if dataclasses.is_dataclass(one) and "trial" in {field.name for field in dataclasses.fields(one)}
    ]  # fmt: skip
    return kind


@pytest.mark.parametrize("name", SMALL)
def test_the_commands_of_an_experiment(name, tmp_path):
    module = importlib.import_module(f"experiments.papers.{name}")
    runs, cfg = CommandRuns(tmp_path), config_of(module)()
    result = module.measure(cfg, runs)
    assert len(runs.commands) >= SMALL[name]
    checks = module.judge(cfg, [result])
    assert checks and all(isinstance(check, Check) and check.numbers for check in checks)
    figures.write(tmp_path, lambda figure: module.draw(cfg, [result], figure))
    assert module.PAPER.name == name and PaperTrial().size in module.PAPER.sizes


@pytest.mark.parametrize(
    ("name", "largest"), [("instructgpt", "width=768"), ("chinchilla_fit", "--depth=12")]
)
def test_the_commands_of_the_gpu_size(name, largest, tmp_path):
    module = importlib.import_module(f"experiments.papers.{name}")
    cfg = dataclasses.replace(config_of(module)(), trial=PaperTrial(size="gpu"))
    runs = CommandRuns(tmp_path)
    module.measure(cfg, runs)
    assert any(largest in one for command in runs.commands for one in command)


def test_corpora_are_trained_on_alike(tmp_path):
    from experiments.papers import recipes

    runs = CommandRuns(tmp_path)
    found = recipes.train_on(runs, CorpusFlags(), {"a": ["one text"], "b": ["another text"]}, ["a text"] * 50)
    first, second = runs.commands
    assert [*found] == ["a", "b"] and len({*first} ^ {*second}) == 2


def test_a_later_flag_replaces_a_shared_one(tmp_path):
    runs = CommandRuns(tmp_path)
    cfg = runs.parse(
        "constitutional", "--rounds=4", "--helpful=-", "--rounds=6", "--helpful=tinytown:prompts"
    )
    assert cfg.revising.rounds == 6 and cfg.revising.helpful == "tinytown:prompts"
