"""Spikes of the loss and of the gradient norm: steps far above the accepted ones before them, which are not applied.

The decision is part of the compiled step, from values that all devices and hosts have: they all decide the same, and no
step waits for its metrics. The window of accepted steps is no part of TrainState, whose tree is that of a run without
the rule: it goes from step to step beside it, and into a checkpoint as JSON.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.train.parallel import Plan
from jaxtrain.types import Batch, Metrics, Params, TrainState

STEPS = 128  # accepted steps that a step is compared with
FEWEST = 16  # accepted steps before which nothing counts as a spike
# Least standard deviation of a window, as a share of its mean. A constant loss or norm would make rounding a spike.
FLOOR = 0.01
# And that of the loss in its own unit: a policy gradient's loss is about 0, whatever it trains.
LOSS_FLOOR = 0.01

SHARE, TOTAL = "spikes/share", "spikes/skipped"


class SpikeWindow(NamedTuple):
    """The accepted steps that a step is compared with, as ring buffers."""

    losses: Array  # f32[STEPS]
    norms: Array  # f32[STEPS]
    accepted: Array  # i32[], steps recorded since the start
    skipped: Array  # i32[], spikes since the start


def empty_window() -> SpikeWindow:
    """The window before the first step."""
    return SpikeWindow(jnp.zeros(STEPS), jnp.zeros(STEPS), jnp.int32(0), jnp.int32(0))


def mean_and_std(window: Array, count: Array, least: float) -> tuple[Array, Array]:
    """f32[] each, of the first `count` values of a window f32[STEPS], of all once it is full. Least std: `least`."""
    valid, n = jnp.arange(window.shape[0]) < count, jnp.clip(count, 1, window.shape[0])
    mean = jnp.sum(window, where=valid) / n
    variance = jnp.sum((window - mean) ** 2, where=valid) / n
    return mean, jnp.maximum(jnp.sqrt(variance), jnp.maximum(FLOOR * jnp.abs(mean), least))


def judge(
    window: SpikeWindow, loss: Array, norm: Array, finite: Array, threshold: float
) -> tuple[Array, SpikeWindow, Metrics]:
    """(whether a step is applied, the window after it, metrics) from a step's mean loss and gradient norm, f32[].

    Neither a step that is not finite nor a spike enters the window: one NaN would make every later step one. Nor does
    a step without a gradient, such as one of GRPO whose groups' scores are all equal: the next real gradient would be
    infinitely far above them. A spike among the first steps, which are all applied, enters as the least of spikes: it
    would hide later ones.
    """
    seen, slot = window.accepted, window.accepted % window.losses.shape[0]
    z, clipped = [], []
    for value, values, least in (
        (loss, window.losses, LOSS_FLOOR), (norm, window.norms, float(jnp.finfo(jnp.float32).tiny)),
    ):  # fmt: skip
        mean, std = mean_and_std(values, seen, least)
        z.append((value - mean) / std)
        clipped.append(jnp.where(seen > 1, jnp.minimum(value, mean + threshold * std), value))
    spike = finite & (seen >= FEWEST) & (jnp.maximum(*z) > threshold)
    applied = finite & jnp.logical_not(spike)
    recorded = applied & (norm > 0)
    after = SpikeWindow(
        jnp.where(recorded, window.losses.at[slot].set(clipped[0]), window.losses),
        jnp.where(recorded, window.norms.at[slot].set(clipped[1]), window.norms),
        seen + recorded.astype(jnp.int32),
        window.skipped + spike.astype(jnp.int32),
    )
    one, some = jnp.ones(()), seen > 1
    metrics = {
        "spikes/loss_z": (jnp.where(some, z[0], 0.0), one),
        "spikes/grad_norm_z": (jnp.where(some, z[1], 0.0), one),
        SHARE: (spike.astype(jnp.float32), one),
        TOTAL: (after.skipped.astype(jnp.float32), one),
    }
    return applied, after, metrics


def _guarded(
    state: TrainState,
    frozen: tuple[Params, SpikeWindow],
    batch: Batch,
    *,
    step: Callable,
    threshold: float,
    axis_name: str | None = None,
) -> tuple[TrainState, tuple[Metrics, SpikeWindow]]:
    frozen, window = frozen
    after = window

    def accept(loss: Array, norm: Array, finite: Array) -> tuple[Array, Metrics]:
        nonlocal after
        applied, after, metrics = judge(window, loss, norm, finite, threshold)
        return applied, metrics

    state, metrics = step(state, frozen, batch, axis_name=axis_name, accept=accept)
    return state, (metrics, after)


class SpikeGuard:
    """A training step that skips spikes, compiled: (state, frozen, batch) -> (state, metrics).

    step: train_step with all but its trees and `accept`. threshold: the z-score above which a step is a spike. saved:
    what `record` gave, of the state that training goes on from; none for a new run.
    """

    def __init__(self, plan: Plan, step: Callable, threshold: float, saved: Mapping[str, Any] | None = None):
        self._plan = plan
        self._step = plan.step(functools.partial(_guarded, step=step, threshold=threshold))
        arrays = saved and SpikeWindow(
            *(jnp.asarray(saved[name], leaf.dtype) for name, leaf in empty_window()._asdict().items())
        )
        self._window = plan.init(
            lambda *tree: tree[0] if tree else empty_window(), {}, *([arrays] if saved else [])
        )

    def __call__(self, state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        state, (metrics, self._window) = self._step(state, (frozen, self._window), batch)
        return state, metrics

    def record(self) -> dict[str, Any]:
        """The window as JSON values, exact: a resumed run decides as this one would have."""
        return jax.tree.map(lambda x: x.tolist(), self._plan.get(self._window))._asdict()


def described(values: Metrics) -> str:
    """How far a step's loss and gradient norm are above the window, in words."""
    z = {name: float(values[f"spikes/{name}_z"][0]) for name in ("loss", "grad_norm")}
    return f"loss {z['loss']:+.1f} and gradient norm {z['grad_norm']:+.1f} standard deviations from the last steps'"
