"""The combinations of a sweep: grids, random draws, names of folders, and flags that a command would refuse."""

import math
import re

import pytest

from experiments.pretrain import Pretrain
from jaxtrain.apps.sweep import trials
from jaxtrain.apps.sweep.config import SweepFlags
from jaxtrain.config import ConfigError


def found(grid, **options):
    return [dict(one.flags) for one in trials.trials(SweepFlags(grid=grid, **options))]


def test_a_grid_is_every_combination():
    assert found("lr=1e-4|3e-4; --batch_size=8|16") == [
        {"lr": "1e-4", "batch_size": "8"}, {"lr": "1e-4", "batch_size": "16"},
        {"lr": "3e-4", "batch_size": "8"}, {"lr": "3e-4", "batch_size": "16"},
    ]  # fmt: skip
    assert found("model=nano,layers=2|nano,layers=4;init_from=../a..b") == [
        {"model": "nano,layers=2", "init_from": "../a..b"}, {"model": "nano,layers=4", "init_from": "../a..b"},
    ]  # fmt: skip


def test_draws_are_of_the_ranges_and_depend_on_their_seed_alone():
    grid = "lr=log:1e-5..1e-1;layers=2..4;dropout=0..0.5;optimizer=adamw|lion"
    drawn = found(grid, trials=200)
    assert drawn == found(grid, trials=200) != found(grid, trials=200, trials_seed=1)
    lrs = sorted(float(one["lr"]) for one in drawn)
    assert 1e-5 <= lrs[0] < 1e-4 and 1e-2 < lrs[-1] <= 1e-1
    assert 0.3 < sum(lr < 1e-3 for lr in lrs) / len(lrs) < 0.7, "uniform in the logarithm"
    assert {one["layers"] for one in drawn} == {"2", "3", "4"}
    assert {one["optimizer"] for one in drawn} == {"adamw", "lion"}
    assert all(0 <= float(one["dropout"]) <= 0.5 for one in drawn)


def test_equal_draws_are_one_trial():
    assert len(found("layers=2..3", trials=50)) == 2


def test_folders_have_names_of_their_own():
    grid = "model=nano,layers=2|nano layers=2|" + "|".join(f"nano,width={'9' * 70}{i}" for i in range(3))
    names = [one.name for one in trials.trials(SweepFlags(grid=grid))]
    assert len({*names}) == 5 and all(re.fullmatch(r"[\w.+-]{1,90}", name) for name in names)
    (plain,) = trials.trials(SweepFlags(grid="lr=1e-4"))
    assert plain.name == "lr-1e-4"


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ("", {}, r"^--grid: name flags"),
        ("lr", {}, r"'lr' is no FLAG=VALUE"),
        ("lr=", {}, r"'lr=' is no FLAG=VALUE"),
        ("lr=1|", {}, r"no FLAG=VALUE"),
        ("l r=1", {}, r"no FLAG=VALUE"),
        ("lr=1;lr=2", {}, r"lr stands twice"),
        ("lr=1|1", {}, r"lr has a value twice"),
        ("seed=1|2", {}, r"the sweep sets --seed itself"),
        ("workdir=a", {}, r"the sweep sets --workdir itself"),
        ("lr=1e-5..1e-2", {}, r"lr has a range; say with --trials"),
        ("lr=1e-2..1e-5", {"trials": 2}, r"write the lower end first"),
        ("lr=log:0..1", {"trials": 2}, r"above 0 with log:"),
        ("lr=log:a..b", {"trials": 2}, r"is no log:LOW..HIGH"),
        ("lr=0..inf", {"trials": 2}, r"write the lower end first"),
    ],
)
def test_grids_that_are_none(grid, options, message):
    with pytest.raises(ConfigError, match=message):
        found(grid, **options)


@pytest.mark.parametrize(
    ("grid", "common", "message"),
    [
        ("lr=1|high", "", r"pretrain --lr=high: --lr=high: write a number"),
        ("lrr=1", "", r"pretrain has no flag --lrr"),
        ("lr=1", "--lr=2", r"both set --lr"),
        ("lr=1", "--seed=3", r"the sweep sets --seed itself"),
        ("lr=1", "--nodry_run", r"the sweep sets --dry_run itself"),
        ("lr=1", "--steps=ten", r"--steps=ten: write a whole number"),
        ("warmup=5|500", "--steps=100", r"--warmup=500: the warm-up must end before --steps=100"),
    ],
)
def test_flags_that_the_command_refuses_are_refused_first(grid, common, message):
    sweep = SweepFlags(grid=grid, common=common)
    with pytest.raises(ConfigError, match=message):
        trials.check(sweep, trials.trials(sweep), Pretrain)


def test_flags_of_a_run(capsys):
    sweep = SweepFlags(grid="lr=0.5", common="--steps=5 --data='jsonl:a b.jsonl'")
    (trial,) = trials.trials(sweep)
    trials.check(sweep, [trial], Pretrain)
    assert capsys.readouterr().err == ""
    assert trials.arguments(sweep, trial, 3, "/runs/x") == [
        "--steps=5", "--data=jsonl:a b.jsonl", "--lr=0.5", "--seed=3", "--workdir=/runs/x",
    ]  # fmt: skip


def test_a_draw_has_few_digits():
    (one,) = found("lr=log:1e-5..1e-2", trials=1)
    assert math.isfinite(float(one["lr"])) and len(one["lr"]) <= 9
