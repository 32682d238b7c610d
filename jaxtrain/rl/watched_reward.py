"""What --watch_reward names, and that it is another reward than the trained one. jax is not imported here."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.files import paths
from jaxtrain.rewards import functions
from jaxtrain.rewards.functions import RewardFunction, WeightedReward
from jaxtrain.rl import config as rl_config
from jaxtrain.rl import environment_spec
from jaxtrain.rl.config import WatchedStageConfig
from jaxtrain.train import workdir

FLAG = "watch_reward"
METRIC = "eval/watch_reward:max"  # what --watch_reward keeps the best checkpoint by
BLIND = "it is the trained reward, and would show nothing that the trained one does not"


def checked(cfg: WatchedStageConfig) -> WatchedStageConfig:
    """The config with what --watch_reward implies: --keep_best, unless another metric is given.

    Raises ConfigError unless exactly one trained reward is named (with --env one at most), for a watched reward that is
    the trained one, and for --stop_on_overoptimisation where no evaluation before the last step could say which
    checkpoint is best.
    """
    environment_spec.check(cfg)
    rl_config.check_sampler(cfg)
    if not cfg.episodes.env or (cfg.scores.reward and cfg.scores.reward_model):
        cfg.scores.require()
    text = cfg.watch.watch_reward
    if not text:
        return cfg
    flag = f"--{FLAG}={text}"
    watched, trained = scores(cfg), cfg.scores
    if watched.reward:
        other = functions.resolve(watched.reward, FLAG)
        if trained.reward and same_functions(functions.resolve(trained.reward), other):
            raise ConfigError(f"{flag}: {BLIND} (--reward={trained.reward}). Name another")
    elif trained.reward_model:
        one, other = _checkpoint(trained.reward_model, "reward_model"), _checkpoint(text, FLAG)
        if _same_checkpoint(one, other):
            raise ConfigError(f"{flag}: {BLIND} (--reward_model={trained.reward_model}). Name another run")
    kept = cfg.run.keep_best or METRIC
    if cfg.watch.stop_on_overoptimisation:
        _check_stop(cfg, kept)
    return dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, keep_best=kept))


def _check_stop(cfg: WatchedStageConfig, kept: str) -> None:
    if kept not in (METRIC, METRIC.rpartition(":")[0]):
        raise ConfigError(
            f"--keep_best={kept}: --stop_on_overoptimisation keeps the best by {METRIC}; leave out one of them"
        )
    if not 0 < cfg.run.eval_every < cfg.run.steps:
        raise ConfigError(
            f"--eval_every={cfg.run.eval_every}: no step before the last one, {cfg.run.steps}, would be evaluated, so "
            "that --stop_on_overoptimisation had no best checkpoint: lower it, such as to 20"
        )


def scores(cfg: WatchedStageConfig) -> config.Scores:
    """The watched reward as the flags of a trained one: a reward model, where a folder has the name, else functions."""
    text = cfg.watch.watch_reward
    is_function = text in functions.NAMED or (
        functions.names_functions(text) and not workdir.split_step(text, FLAG)[0].exists()
    )
    return config.Scores(reward=text) if is_function else config.Scores(reward_model=text)


def reward_functions(cfg: WatchedStageConfig) -> Iterator[WeightedReward]:
    """The trained and the watched reward, those of them that are functions."""
    if cfg.scores.reward:
        yield functions.resolve(cfg.scores.reward)
    if cfg.watch.watch_reward and (text := scores(cfg).reward):
        yield functions.resolve(text, FLAG)


def same_functions(one: WeightedReward, other: WeightedReward) -> bool:
    """Whether two rewards are multiples of each other: the same functions, however named, in the same proportion."""
    sums: list[tuple[RewardFunction, list[float]]] = []
    for side, reward in enumerate((one, other)):
        for function in reward.functions:
            pair = next((pair for known, pair in sums if _same_function(known, function)), None)
            if pair is None:
                sums.append((function, pair := [0.0, 0.0]))
            pair[side] += function.weight
    weights = [pair for _, pair in sums if any(pair)]
    a, b = max(weights, key=lambda pair: abs(pair[0]), default=(0.0, 0.0))
    return all(abs(x * b - y * a) <= 1e-9 * abs(a * b) for x, y in weights) and bool(a and b)


def _same_function(one: RewardFunction, other: RewardFunction) -> bool:
    if one.call == other.call:
        return True
    places = [_place(function) for function in (one, other)]
    if None in places or places[0][0] != places[1][0]:
        return False
    return places[0][1] == places[1][1] or _same_code(one.call, other.call)


def _same_code(one: object, other: object) -> bool:
    """Whether two functions of a file, which may have been run twice, are one under two names."""
    code, defaults = getattr(one, "__code__", None), ("__defaults__", "__kwdefaults__", "__closure__")
    same = all(getattr(one, name, None) == getattr(other, name, None) for name in defaults)
    return code is not None and code == getattr(other, "__code__", None) and same


def _place(function: RewardFunction) -> tuple[str, str] | None:
    """(the file of a function's module, the function's name in it); None for one of NAMED."""
    module, _, name = function.name.rpartition(":")
    if not module:
        return None
    file = (
        Path(module).expanduser()
        if module.endswith(".py")
        else getattr(sys.modules.get(module), "__file__", None)
    )
    return (os.path.realpath(file), name) if file else None


def _checkpoint(text: str, flag: str) -> tuple[Path, int | None]:
    """(the run, the step) of a reward model. Raises ConfigError where it is no run."""
    source, step = workdir.split_step(text, flag)
    workdir.read_run(source, f"--{flag}")
    return source, workdir.newest_step(source) if step is None else step


def _same_checkpoint(one: tuple[Path, int | None], other: tuple[Path, int | None]) -> bool:
    """Whether two runs and steps have the same parameters: one folder by two paths, or a copy of it."""
    if _real(one[0]) == _real(other[0]):
        return one[1] == other[1]
    leaves = _digests(*one)
    return bool(leaves) and leaves == _digests(*other)


def _real(path: Path) -> str:
    return str(path) if config.is_remote(path) else os.path.realpath(paths.absolute(path))


def _digests(source: Path, step: int | None) -> dict[str, object]:
    """The digests of a checkpoint's parameters, empty where they cannot be read; whoever loads it says why."""
    try:
        file = source / workdir.CHECKPOINTS / str(step) / "meta" / "metadata"
        leaves = json.loads(file.read_text(encoding="utf-8"))["leaves"]
        return {name: digest for name, digest in leaves.items() if name.startswith("params/")}
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {}
