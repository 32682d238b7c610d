import subprocess
import sys

import pytest

from jaxtrain.worlds.tinytown.configs import (
    COLUMNS,
    CONFIGS,
    SPLITS,
    Pretrain,
    check_split,
    full_name,
    resolve,
    split_size,
)
from jaxtrain.worlds.tinytown.prompts import parse_prompt, space
from jaxtrain.worlds.tinytown.records import named_rows


def test_tables_agree():
    assert set(CONFIGS) == set(SPLITS) == set(COLUMNS)
    for config, options in CONFIGS.items():
        assert full_name(config, options()) == config
        assert {split_size(options(), s) for s in SPLITS[config]} == {options().documents, options().held_out}


def test_options_may_be_text():
    options = resolve(
        "pretrain", {"documents": "1000000", "seed": "1", "turns": "hh", "junk": "0.5", "dup": 0}
    )
    assert options == Pretrain(documents=1_000_000, seed=1, turns="hh", junk=0.5)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("pretrian", {}, r"no config 'pretrian'; choose one of pretrain, sft, preferences"),
        ("sft", {"dup": 0.1}, r"tinytown:sft has no option 'dup'; it has documents"),
        ("pretrain", {"documents": "many"}, "documents takes int, got 'many'"),
        ("pretrain", {"documents": 1.5}, "documents takes int, got 1.5"),
        ("pretrain", {"documents": True}, "documents takes int, got True"),
        ("pretrain", {"documents": 0}, "documents must be at least 1"),
        ("pretrain", {"seed": -1}, "seed must be in"),
        ("pretrain", {"sums": 20}, "sums, the largest addend, must be in 1..19"),
        ("pretrain", {"junk": 1.5}, r"junk must be in 0..1"),
        ("pretrain", {"junk": "nan"}, r"junk must be in 0..1"),
        ("pretrain", {"junk": 0.6, "spam": 0.6}, "exceed 1"),
        ("pretrain", {"junk": 0.1, "documents": 100}, "raise documents or lower originals"),
        ("pretrain", {"turns": "loud"}, "turns must be one of 'plain', 'hh'"),
        ("preferences", {"temperature": 0.0}, "temperature must be positive"),
        ("preferences", {"group": "C"}, "group must be one of '', 'A', 'B'"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(config, options, message):
    with pytest.raises(ValueError, match=message):
        resolve(config, options)


def test_splits_are_checked():
    check_split("pretrain", "validation[:50%]")
    with pytest.raises(ValueError, match="no split 'validation'; it has train, test"):
        check_split("prompts", "validation")


def test_other_options_have_another_name():
    names = {
        full_name("pretrain", resolve("pretrain", options))
        for options in ({}, {"seed": 1}, {"seed": 2}, {"documents": 1_000}, {"documents": 1_000, "seed": 1})
    }
    assert len(names) == 5
    assert full_name("pretrain", resolve("pretrain", {"seed": "0"})) == "pretrain"


def test_the_flag_parser_loads_nothing_heavy():
    code = (
        "import sys, jaxtrain.worlds.tinytown.configs;"
        "print(*{'numpy', 'jax', 'tensorflow_datasets', 'grain'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_world_needs_numpy_alone():
    code = (
        "import sys, jaxtrain.worlds.tinytown.records;"
        "print(*{'jax', 'tensorflow_datasets', 'grain', 'absl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_family_of_prompts_is_all_there_are_of_it():
    options = resolve("prompts", {"family": "sum"})
    for split in ("train", "test"):
        asked = [row["prompt"] for row in named_rows("prompts", options, split)]
        assert len(set(asked)) == len(asked) == split_size(options, split)
        assert {parse_prompt(text).family for text in asked} == {"sum"}
        assert len(asked) == len(space(9, split == "test").prompts["sum"])
    assert split_size(resolve("prompts", {"family": "sum", "documents": "5"}), "train") == 5
    with pytest.raises(ValueError, match="family must be one of"):
        resolve("prompts", {"family": "poems"})
