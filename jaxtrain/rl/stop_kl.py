"""--stop_kl: the rest of an iteration's updates is left out once the policy is far from the one that sampled."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxtrain.config import RolloutStageConfig
from jaxtrain.stages.session import Session
from jaxtrain.types import Metrics, TrainState


def stopped(cfg: RolloutStageConfig, session: Session, state: TrainState, done: int) -> bool:
    """Whether the last update went further than --stop_kl allows."""
    stop_kl = cfg.samples.stop_kl
    return bool(stop_kl and done and float(session.plan.get(state.extra["approxkl"])) > stop_kl)


def first_extra(cfg: RolloutStageConfig) -> Any:
    """The first TrainState.extra."""
    return {"approxkl": jnp.zeros(())} if cfg.samples.stop_kl else ()


def carry(cfg: RolloutStageConfig) -> Callable[[Any, Metrics], Any] | None:
    """A function (extra, metrics) -> TrainState.extra: the last update's KL from the old policy, for --stop_kl."""
    if not cfg.samples.stop_kl:
        return None

    def after(extra: Any, metrics: Metrics) -> Any:
        total, count = metrics["policy/approxkl_avg"]
        return {"approxkl": total / jnp.maximum(count, 1.0)}

    return after
