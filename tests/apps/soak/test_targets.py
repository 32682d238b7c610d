"""Commands under attack are commands: their flags parse, their parents exist, every stage is among them."""

import functools

import pytest

from jaxtrain import flags
from jaxtrain.apps.soak import stores, targets, tiny
from tests.docs.test_commands import config_class

COMMANDS = [*targets.PARENTS.values(), *(one.command for one in (*targets.TARGETS, *stores.TARGETS))]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_flags_parse_and_name_folders_of_the_attempt_or_parents(command):
    stage, *given = targets.fill(command, "/here", "/parents")
    cfg = flags.from_flags(config_class(stage), given)
    assert cfg is not None and any("/here/run" in part for part in given)
    assert any("/here/cache" in part for part in given) and not any("{" in part for part in given)


def test_flags_of_the_stages_of_constitutional_ai_parse():
    command = next(one.command for one in targets.TARGETS if one.name == "constitutional")
    for stage, flag in {"sft": "sft_flags", "reward": "reward_flags", "ppo": "rl_flags"}.items():
        given = next(part.partition("=")[2] for part in command if part.startswith(f"--{flag}="))
        assert flags.from_flags(config_class(stage), given.split()).run.checkpoint_every == 1


def test_every_training_stage_is_attacked():
    trained = {one.name for one in targets.TARGETS if one.trains}
    assert trained == {"pretrain", "sft", "reward", "dpo", "ppo", "grpo", "distill"}
    assert {one.tiny for one in targets.TARGETS} <= tiny.CHANGES.keys()
    names = [one.name for one in (*targets.TARGETS, *stores.TARGETS)]
    assert len(names) == len(set(names))


def test_a_training_stage_saves_more_often_than_it_ends():
    for one in targets.TARGETS:
        if one.trains:
            value = functools.partial(_value, one.command)
            assert 2 * value("checkpoint_every") < value("steps") and value("log_every") == 1


def _value(command, flag):
    return next(int(part.partition("=")[2]) for part in reversed(command) if part.startswith(f"--{flag}="))
