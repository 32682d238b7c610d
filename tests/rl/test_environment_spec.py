"""What --env names, and what it is refused for."""

import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rl import environment_spec, tool_environment

SOURCE = """
from functools import partial


class Good:
    def reset(self, row, seed):
        return row["messages"]

    def step(self, completion):
        return None


class Needs(Good):
    def __init__(self, size):
        self.size = size


class Half:
    def reset(self, row, seed):
        return []


class Old(Good):
    def reset(self):
        return []


class Awaits(Good):
    async def step(self, completion):
        return None


class Outer:
    Inner = Good


one = Good()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_environments_have_names_and_shares(file):
    (one,) = environment_spec.resolve(f"{file}:Good")
    assert one.share == 1 and type(one.make()).__name__ == "Good" and one.label == f"--env={file}:Good"
    specs = environment_spec.resolve(f"{file}:Outer.Inner*3, tinytown:search*1e0")
    assert [spec.share for spec in specs] == [0.75, 0.25]
    assert isinstance(specs[1].make(), tool_environment.WorldTask)
    names = ",".join(f"tinytown:{name}" for name in tool_environment.shipped())
    kinds = {type(spec.make()) for spec in environment_spec.resolve(names)}
    assert kinds == {tool_environment.WorldTask, tool_environment.WorldGame}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "nothing",
            "write MODULE:CLASS, FILE.py:CLASS, gsm8k:DATA, or one of tinytown:search, tinytown:calc",
        ),
        ("{file}:Good,", "write MODULE:CLASS"),
        ("{file}:Good*0", "the weight \\*0 is not a number above 0"),
        ("{file}:Good*many", "the weight \\*many is not a number"),
        ("{file}:Good*nan", "the weight \\*nan is not a number"),
        ("{file}:Good*1,{file}:Good*2", "Good stands there twice"),
        ("tinytown:chess", "no environment tinytown:chess; there are tinytown:search"),
        ("no_such_module_anywhere:Good", "no module no_such_module_anywhere"),
        ("{file}x.py:Good", "no such file"),
        ("{file}:Bad", "mine.py has no Bad"),
        ("{file}:Half", "Half has no method step: write a class with reset"),
        ("{file}:Old", "Old.reset cannot be called as it is: too many positional arguments"),
        ("{file}:Needs", "Needs cannot be called as it is: missing a required argument: 'size'"),
        ("{file}:Awaits", "Awaits.step is a coroutine: write it without async"),
        ("{file}:one", "one is one instance for all episodes: name its class"),
        ("{file}:partial", "partial has no method reset"),
    ],
)
def test_what_is_no_environment_is_refused(file, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        environment_spec.resolve(text.format(file=file))
    assert str(error.value).startswith(f"--env={text.format(file=file)}: ")


def test_seeds_are_of_the_run_and_the_prompt():
    seeds = {environment_spec.episode_seed(run, number) for run in range(3) for number in range(50)}
    assert len(seeds) == 150 and all(0 <= seed < 2**32 for seed in seeds)
    assert environment_spec.episode_seed(1, 2) == environment_spec.episode_seed(1, 2)
    assert type(environment_spec.episode_seed(0, 0)) is int and not isinstance(
        environment_spec.episode_seed(0, 0), np.integer
    )
