"""Flags of a reward that is watched beside the trained one. jax is not imported here."""

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


class WatchedStageConfig(RolloutStageConfig, Protocol):
    """The config of an on-policy stage with a watched reward."""

    watch: Watch
