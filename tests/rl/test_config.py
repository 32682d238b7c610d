"""The flags of episodes and of a watched reward act together or are refused."""

import pytest

from jaxtrain.config import ConfigError
from jaxtrain.rl.config import Episodes, Watch


@pytest.mark.parametrize(
    "flags", [{"max_turns": 3}, {"env_timeout": 1.0}, {"env_threads": 2}, {"on_env_error": "skip"}]
)
def test_flags_of_episodes_act_only_with_an_environment(flags):
    (name,) = flags
    assert Episodes(env="tinytown:search", **flags).env and not Episodes().env
    with pytest.raises(ConfigError, match=f"--{name}: acts only with --env"):
        Episodes(**flags)


def test_an_episode_has_a_turn_and_an_environment_some_time():
    for flags in ({"max_turns": 0}, {"env_timeout": 0.0}, {"env_threads": 0}, {"on_env_error": "ignore"}):
        (name,) = flags
        with pytest.raises(ConfigError, match=f"--{name}="):
            Episodes(env="x:Y", **flags)


def test_flags_of_a_watched_reward_act_only_with_one():
    assert Watch(watch_reward="gold", watch_every=3, stop_on_overoptimisation=True).watch_every == 3
    with pytest.raises(ConfigError, match="--watch_every=3: acts only with --watch_reward"):
        Watch(watch_every=3)
    with pytest.raises(ConfigError, match="--stop_on_overoptimisation: it looks at --watch_reward"):
        Watch(stop_on_overoptimisation=True)
