"""Flags of the on-policy stages: environments, and a reward that is watched. jax is not imported here."""

import dataclasses
from typing import Protocol

from jaxtrain import config
from jaxtrain.config import ConfigError, RolloutStageConfig


@dataclasses.dataclass(frozen=True)
class Watch(config.Group):
    # fmt: off
    watch_reward: str = config.arg("",
        "Score completions by another reward, too, which shows whether the trained one is exploited: a reward model's "
        "run (WORKDIR, WORKDIR@STEP, WORKDIR@best), or functions as --reward has them. It has no part in training. "
        "Every --eval_every steps the answers to --prompts are scored, too, and the checkpoint that is best by them is "
        "kept (RUN@best)",
        remote=True)
    watch_every: int = config.arg(1, "Iterations from one whose rollout is scored by it to the next", low=1, live=True)
    stop_on_overoptimisation: bool = config.arg(False,
        "Stop where the watched reward has fallen from its best, by 4.5 standard errors and a tenth of its gain, and "
        "the trained one has not", live=True)
    # fmt: on

    def check(self):
        if self.watch_reward:
            return
        if self.stop_on_overoptimisation:
            raise ConfigError(
                "--stop_on_overoptimisation: it looks at --watch_reward; name a reward that is not trained on"
            )
        if self.watch_every != type(self).watch_every:
            raise ConfigError(f"--watch_every={self.watch_every}: acts only with --watch_reward")


@dataclasses.dataclass(frozen=True)
class Episodes(config.Group):
    # fmt: off
    env: str = config.arg("",
        "Sample episodes of an environment instead of single completions: MODULE:CLASS, FILE.py:CLASS, or "
        "tinytown:search, tinytown:calculator, tinytown:twenty_questions; several joined by commas, each *WEIGHT. Its "
        "rewards are added to those of --reward or --reward_model, which may be left out")
    max_turns: int = config.arg(8, "Most completions of an episode; one that is not over then is cut off", low=1)
    env_timeout: float = config.arg(30.0, "Seconds that one call of an environment may take", low=0.001, live=True)
    env_threads: int = config.arg(8, "Environments of a host that are called at the same time", low=1, live=True)
    on_env_error: str = config.arg("raise",
        "An environment that raises, takes longer than --env_timeout, or returns what it may not: stop the run, or "
        "skip: end the episode, leave it out of the loss, and count it", choices=("raise", "skip"))
    # fmt: on

    def check(self):
        changed = [f"--{f.name}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        if changed and not self.env:
            raise ConfigError(f"{', '.join(changed)}: acts only with --env")


class WatchedStageConfig(RolloutStageConfig, Protocol):
    """The config of an on-policy stage with a watched reward."""

    watch: Watch
    episodes: Episodes
