"""Which sampler a run's rollouts come from: completions or episodes, and what is added to what they return."""

import functools
from collections.abc import Callable

from jaxtrain.data.chat import Template
from jaxtrain.rl import episodes, rollouts
from jaxtrain.rl.config import WatchedStageConfig, iteration_size
from jaxtrain.rl.flat_groups import Sample
from jaxtrain.rl.rollouts import RolloutConfig
from jaxtrain.stages.session import Session

# (what an on-policy stage brings, a sample function) -> one whose batches have further columns
Wrapper = Callable[[RolloutConfig, Sample], Sample]


def sampler_of(
    cfg: WatchedStageConfig, template: Template, wrap: Wrapper | None = None
) -> Callable[..., Sample]:
    """A function (config, session, RolloutConfig) -> the run's sample function: of episodes with --env."""
    make = (
        functools.partial(episodes.episode_sampler, template=template)
        if cfg.episodes.env
        else rollouts.completion_sampler
    )

    def made(cfg: WatchedStageConfig, session: Session, setup: RolloutConfig) -> Sample:
        sample = make(cfg, session, setup)
        return wrap(setup, sample) if wrap else sample

    return made


def table(cfg: WatchedStageConfig, template: Template) -> list[tuple[str, str]]:
    """Lines about an iteration and its environments, for people.

    Raises ConfigError where the template cannot write what they say.
    """
    s, size = cfg.samples, iteration_size(cfg)
    line = f"{size:,} completions of {size // s.group:,} prompts, {s.epochs * s.minibatches} updates"
    return [("iteration", line), *episodes.table(cfg, template)]
