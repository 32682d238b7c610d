"""Flags of the on-policy stages: environments, and a reward that is watched. jax is not imported here."""

import abc
import dataclasses
import math
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
class RolloutSampler(config.Group):
    # fmt: off
    rollout_rows: int = config.arg(0,
        "Continuous batching: sample so many completions at a time, a row whose completion has ended taking the next "
        "prompt. 0: fixed batches, which wait for their longest completion", low=0)
    rollout_endpoint: str = config.arg("",
        "Sample from an OpenAI-compatible server, http://HOST:PORT/v1?model=NAME, that returns token ids "
        "(return_token_ids: vLLM, ./launch/run serve). The trainer computes the log-probabilities anew", live=True)
    rollout_weights: str = config.arg("/update_weights_from_disk",
        "Route of that server which loads weights from a folder (SGLang's): each iteration's policy is written to "
        "rollout_weights/ in the run's folder, and this is called with it. Empty: the server keeps its weights",
        live=True)
    async_steps: int = config.arg(0,
        "1: sample the next iteration's completions while the updates on this one's go on, of the policy before them, "
        "and weigh tokens by --is_cap or --is_mask. 0: sample, then learn", low=0, high=1)
    sample_budget: int = config.arg(0,
        "Dynamic sampling: most completions an iteration may sample until no group has equal scores, at least the "
        "iteration's own; only as many are sampled as seem missing. 0: --resample decides", low=0)
    is_cap: float = config.arg(0.0,
        "Weigh a token's loss by the importance weight between the trainer's and the sampler's log-probability, at "
        "most this (TIS; 2 is usual); 0: no cap", low=0)
    is_mask: str = config.arg("",
        "LOW,HIGH: weigh a token's loss by that importance weight, and by 0 where it is not between these two (IcePop; "
        "0.5,5)")
    is_level: str = config.arg("token", "Whose importance weight it is: a token's, or the product over a completion",
        choices=("token", "sequence"))
    # fmt: on

    def corrects(self) -> bool:
        """Whether tokens have importance weights."""
        return bool(self.is_cap or self.is_mask)

    def bounds(self) -> tuple[float, float]:
        """The bounds of --is_mask, (0, inf) without it. Raises ConfigError."""
        if not self.is_mask:
            return 0.0, math.inf
        try:
            low, high = map(float, self.is_mask.split(","))
        except ValueError:
            low, high = math.nan, math.nan
        if not 0 <= low <= 1 <= high < math.inf:
            raise ConfigError(
                f"--is_mask={self.is_mask}: write LOW,HIGH, a number up to 1 and one from 1 on, such as 0.5,5"
            )
        return low, high

    def check(self):
        self.bounds()
        if self.rollout_endpoint and self.rollout_rows:
            raise ConfigError(
                f"--rollout_rows={self.rollout_rows}: the server batches its requests; leave it out"
            )
        if self.rollout_weights != type(self).rollout_weights and not self.rollout_endpoint:
            raise ConfigError(f"--rollout_weights={self.rollout_weights}: acts only with --rollout_endpoint")
        if self.is_level != type(self).is_level and not self.corrects():
            raise ConfigError(f"--is_level={self.is_level}: acts only with --is_cap or --is_mask")


@dataclasses.dataclass(frozen=True)
class PolicyLoss(config.Group, abc.ABC):
    """What the losses of PPO and GRPO share: how the KL penalty and the entropy bonus follow their targets."""

    # fmt: off
    kl_target: float = config.arg(0.0, "Adapt --kl_coef so that a completion's KL comes to this many nats; 0: leave it",
        low=0)
    kl_horizon: float = config.arg(10_000.0, "Episodes over which --kl_coef adapts", low=1)
    entropy_coef: float = config.arg(0.0, "Bonus a nat of the policy's entropy; below 0 a price, for surer answers")
    entropy_target: float = config.arg(0.0,
        "Adapt --entropy_coef so that the entropy of a token stays at this many nats or above: by --entropy_step an "
        "iteration, and without a bonus while it is above. 0: leave it", low=0)
    entropy_step: float = config.arg(0.005, "What --entropy_coef changes by in an iteration", low=1e-9)
    # fmt: on

    def check(self):
        if not self.kl_target and self.kl_horizon != type(self).kl_horizon:
            raise ConfigError(f"--kl_horizon={self.kl_horizon}: acts only with --kl_target above 0")
        if self.kl_target and not self.first_kl_coef():
            raise ConfigError("--kl_target: --kl_coef=0 cannot grow; start it above 0")
        if not self.entropy_target and self.entropy_step != type(self).entropy_step:
            raise ConfigError(f"--entropy_step={self.entropy_step}: acts only with --entropy_target above 0")
        if self.entropy_target and self.entropy_coef < 0:
            raise ConfigError(
                f"--entropy_coef={self.entropy_coef}: with --entropy_target it starts at 0 or above"
            )

    @abc.abstractmethod
    def first_kl_coef(self) -> float:
        """--kl_coef of the first iteration."""


@dataclasses.dataclass(frozen=True)
class StepScores(config.Group):
    # fmt: off
    process_reward: str = config.arg("",
        "Score the steps of completions, too, each at its last token: MODULE:FUNCTION or FILE.py:FUNCTION, several as "
        "in --reward, each returning for each completion a list of a number for each of its `steps`")
    step_separator: str = config.arg("\\n", "What stands between two steps; \\n is a new line")
    # fmt: on

    def separator(self) -> str:
        """The text between two steps."""
        return self.step_separator.replace("\\n", "\n").replace("\\t", "\t")

    def check(self):
        if self.step_separator != type(self).step_separator and not self.process_reward:
            raise ConfigError(f"--step_separator={self.step_separator}: acts only with --process_reward")
        if not self.step_separator:
            raise ConfigError("--step_separator=: write what stands between two steps, such as \\n")


@dataclasses.dataclass(frozen=True)
class Episodes(config.Group):
    # fmt: off
    env: str = config.arg("",
        "Sample episodes of an environment instead of single completions: MODULE:CLASS, FILE.py:CLASS, gsm8k:DATA, or "
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
    sampler: RolloutSampler
    loss: config.Group


class SteppedStageConfig(WatchedStageConfig, Protocol):
    """The config of an on-policy stage that may have process rewards."""

    steps: StepScores


def iteration_size(cfg: RolloutStageConfig) -> int:
    """The number of completions of an iteration."""
    return cfg.data.batch_size * cfg.samples.minibatches


def least_groups(cfg: WatchedStageConfig) -> int:
    """The least groups that are sampled at once: reward models score --batch_size rows at a time."""
    return cfg.data.batch_size // math.gcd(cfg.data.batch_size, cfg.samples.group)


def check_sampler(cfg: WatchedStageConfig) -> None:
    """Raises ConfigError for --async_steps without weights, and a --sample_budget that would do nothing."""
    if cfg.sampler.async_steps and isinstance(cfg.loss, PolicyLoss) and not cfg.sampler.corrects():
        raise ConfigError(
            "--async_steps=1: completions are of an older policy than the one that learns: weigh their tokens by "
            "--is_cap (2 is usual) or --is_mask (0.5,5)"
        )
    if cfg.sampler.rollout_endpoint and (cfg.samples.temperature != 1 or not cfg.samples.stop_at_end):
        raise ConfigError(
            "--rollout_endpoint: its log-probabilities are those of --temperature=1 and --stop_at_end; leave them out"
        )
    budget, size = cfg.sampler.sample_budget, iteration_size(cfg)
    if not budget:
        return
    if cfg.samples.group < 2 or cfg.samples.resample:
        why = "--group=1 has none" if cfg.samples.group < 2 else "--resample decides how often that is done"
        raise ConfigError(f"--sample_budget={budget}: it replaces groups of equal scores, and {why}")
    more = least_groups(cfg) * cfg.samples.group
    if budget < size + more:
        raise ConfigError(
            f"--sample_budget={budget}: an iteration samples {size} completions, and at least {more} more to replace "
            f"any; use {size + more} or more"
        )
