"""What --watch_reward names: never the trained reward, whatever it is called. jax is not needed for it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest

from experiments.ppo import Ppo
from jaxtrain import config
from jaxtrain import flags as command_line
from jaxtrain.config import ConfigError
from jaxtrain.files import checksums
from jaxtrain.rewards import functions
from jaxtrain.rl import watched_reward
from jaxtrain.rl.watched_reward import checked, same_functions
from tests.runs import ROOT

RULES = """
import functools
def long(completions, **columns):
    return [float(len(text)) for text in completions]
def short(completions, **columns):
    return [-float(len(text)) for text in completions]
alias = long
def made(factor):
    def scored(completions, **columns):
        return [factor * len(text) for text in completions]
    return scored
twice, thrice = made(2), made(3)
class Rule:
    def score(self, completions, **columns):
        return [1.0 for _ in completions]
    other = lambda self, completions, **columns: [2.0 for _ in completions]
rule = Rule()
half, third = functools.partial(long, factor=.5), functools.partial(long, factor=.3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rules in a file, a link to it and a copy; a reward model's run with two steps, a link to it and a copy."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "rules.py").write_text(RULES)
    (folder / "link.py").symlink_to("rules.py")
    (folder / "other.py").write_text(RULES.replace("float(len(text))", "float(len(text) // 2)"))
    run(folder / "rm", 3, 7)
    (folder / "rm-link").symlink_to("rm")
    shutil.copytree(folder / "rm", folder / "rm-copy")
    run(folder / "rm-other", 7, weights="0e")
    return folder


def run(path, *steps, weights=""):
    """A reward model's run as far as it is looked at here; its evaluation was best at the first step."""
    path.mkdir()
    record = {"stage": "reward", "config": {}, "data": {}, "resumed": []}
    (path / "config.json").write_text(json.dumps(checksums.sealed(record)))
    for step in steps:
        meta = path / "checkpoints" / str(step) / "meta"
        meta.mkdir(parents=True)
        facts = {"step": step, "keep_best": "eval/loss:min", "evaluation": {"eval/loss": float(step)}}
        body = {"meta": facts, "leaves": {"params/a": [[2], "float32", f"{weights}{step:02x}"]}}
        (meta / "metadata").write_text(json.dumps({**body, "sha256": checksums.json_sha256(body)}))


def flags(folder, *given):
    return command_line.from_flags(Ppo, [flag.replace("DIR", str(folder)) for flag in given])


SAME = [
    ("--reward=gold", "--watch_reward=gold"),
    ("--reward=gold", "--watch_reward=gold*3"),
    ("--reward=gold", "--watch_reward=jaxtrain.rewards.functions:_gold"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/rules.py:long"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/./rules.py:long?format=text*2"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/link.py:long"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/rules.py:alias"),
    ("--reward=DIR/rules.py:rule.score", "--watch_reward=DIR/link.py:rule.score"),
    ("--reward=DIR/rules.py:twice", "--watch_reward=DIR/rules.py:twice"),
    ("--reward=DIR/rules.py:long,gold*.5", "--watch_reward=gold,DIR/rules.py:alias*2"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/rules.py:long,gold*0"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/rules.py:long*-1"),
    ("--reward_model=DIR/rm", "--watch_reward=DIR/rm"),
    ("--reward_model=DIR/rm", "--watch_reward=DIR/rm@7"),
    ("--reward_model=DIR/rm@3", "--watch_reward=DIR/rm@best"),
    ("--reward_model=DIR/rm@best", "--watch_reward=DIR/../{name}/rm@3"),
    ("--reward_model=DIR/rm", "--watch_reward=DIR/rm-link@7"),
    ("--reward_model=DIR/rm@3", "--watch_reward=DIR/rm-copy@3"),
]
OTHER = [
    ("--reward=gold", "--watch_reward=correct"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/rules.py:short"),
    ("--reward=DIR/rules.py:long", "--watch_reward=DIR/other.py:long"),
    ("--reward=DIR/rules.py:twice", "--watch_reward=DIR/rules.py:thrice"),
    ("--reward=DIR/rules.py:half", "--watch_reward=DIR/rules.py:third"),
    ("--reward=DIR/rules.py:rule.score", "--watch_reward=DIR/rules.py:rule.other"),
    ("--reward=DIR/rules.py:long,gold*.5", "--watch_reward=DIR/rules.py:long,gold"),
    ("--reward=DIR/rules.py:long,gold*.5", "--watch_reward=gold"),
    ("--reward_model=DIR/rm", "--watch_reward=DIR/rm@3"),
    ("--reward_model=DIR/rm", "--watch_reward=DIR/rm@best"),
    ("--reward_model=DIR/rm", "--watch_reward=DIR/rm-other"),
    ("--reward_model=DIR/rm", "--watch_reward=gold"),
    ("--reward=gold", "--watch_reward=DIR/rm"),
]


@pytest.mark.parametrize("given", SAME)
def test_the_trained_reward_is_refused_however_it_is_named(folder, given):
    with pytest.raises(
        ConfigError, match=r"--watch_reward=.*: it is the trained reward, and would show nothing"
    ):
        checked(flags(folder, *(flag.format(name=folder.name) for flag in given)))


@pytest.mark.parametrize("given", OTHER)
def test_another_reward_is_taken_and_keeps_the_best_checkpoint(folder, given):
    assert checked(flags(folder, *given)).run.keep_best == "eval/watch_reward:max"


def test_it_is_refused_before_jax_is_imported(folder):
    code = (
        "import sys; from experiments import ppo; from jaxtrain import flags; from jaxtrain.config import ConfigError\n"
        "try: ppo.main(flags.from_flags(ppo.Ppo, sys.argv[1:]))\n"
        "except ConfigError as error: print(error, 'jax' in sys.modules)"
    )
    given = [f"--reward_model={folder}/rm", f"--watch_reward={folder}/rm-link"]
    command = [sys.executable, "-P", "-c", code, *given]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "it is the trained reward" in done.stdout and done.stdout.strip().endswith("False"), done.stderr


WRONG = [
    ((), "--reward_model, --reward: name one of them"),
    (("--reward=gold", "--stop_on_overoptimisation"), "--stop_on_overoptimisation: it looks at --watch_reward"),
    (("--reward=gold", "--watch_every=3"), "--watch_every=3: acts only with --watch_reward"),
    (("--reward=gold", "--watch_reward=x:f", "--watch_every=0"), "--watch_every=0: must be at least 1"),
    (("--reward=gold", "--watch_reward=nosuch:f"), "--watch_reward=nosuch:f: no module nosuch"),
    (("--reward=gold", "--watch_reward=DIR/rules.py:nothing"), "has no nothing"),
    (("--reward_model=DIR/rm", "--watch_reward=DIR/none"), "--watch_reward=.*/none is not a run: there is no such"),
    (("--reward_model=DIR/none", "--watch_reward=DIR/rm"), "--reward_model=.*/none is not a run"),
    (
        ("--reward=gold", "--watch_reward=correct", "--stop_on_overoptimisation", "--keep_best=judge/gold"),
        "--keep_best=judge/gold: --stop_on_overoptimisation keeps the best by eval/watch_reward:max",
    ),
    (
        ("--reward=gold", "--watch_reward=correct", "--stop_on_overoptimisation", "--eval_every=0"),
        "--eval_every=0: no step before the last one, 160, would be evaluated",
    ),
    (
        ("--reward=gold", "--watch_reward=correct", "--stop_on_overoptimisation", "--steps=20"),
        "--eval_every=20: no step before the last one, 20, would be evaluated",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_flags_that_cannot_be_are_refused(folder, given, message):
    with pytest.raises(ConfigError, match=message):
        checked(flags(folder, *given))


def test_another_metric_may_keep_the_best_checkpoint_unless_the_run_is_to_stop_by_it(folder):
    given = ("--reward=gold", "--watch_reward=correct")
    assert checked(flags(folder, *given, "--keep_best=judge/gold")).run.keep_best == "judge/gold"
    assert checked(flags(folder, *given, "--keep_best=eval/watch_reward", "--stop_on_overoptimisation"))
    cfg = flags(folder, "--reward=gold")
    assert checked(cfg) == cfg


def test_a_folder_goes_before_a_function_of_its_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    cfg = flags(folder, "--reward=gold", "--watch_reward=strange:name")
    assert watched_reward.scores(cfg).reward == "strange:name"
    run(folder / "strange:name", 1)
    assert watched_reward.scores(cfg) == config.Scores(reward_model="strange:name")
    named = dataclasses.replace(cfg, watch=dataclasses.replace(cfg.watch, watch_reward="gold"))
    assert watched_reward.scores(named).reward == "gold"


def test_rewards_without_weight_are_not_the_same_as_any():
    nothing = functions.resolve("gold*0")
    assert not same_functions(functions.resolve("gold"), nothing)
