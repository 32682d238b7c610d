"""The one training step. It knows neither mesh nor pmap beyond the name of an axis to sum over."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxtrain.ops import auxiliary_losses
from jaxtrain.types import Batch, Key, Loss, Metrics, Objective, Params, TrainState


def init_state(params: Params, tx: optax.GradientTransformation, rng: Key, extra: Any = ()) -> TrainState:
    """The state before the first step."""
    step, skipped, in_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # distinct, as donation needs
    return TrainState(step, params, tx.init(params), rng, skipped, in_row, extra)


def train_step(
    state: TrainState,
    frozen: Params,
    batch: Batch,
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
    microbatches: int = 1,
    axis_name: str | None = None,
    carry: Callable[[Any, Metrics], Any] | None = None,
    accept: Callable[[Array, Array, Array], tuple[Array, Metrics]] | None = None,
) -> tuple[TrainState, Metrics]:
    """One update from Σ gradients / Σ weight over all rows, whatever devices and microbatches they are spread over.

    A step whose loss or gradient is not finite, or which has no weight, leaves parameters, optimizer and `extra` as
    they are and is counted; one without weight is no part of a streak. `carry(extra, metrics)` gives the next `extra`.
    `accept(mean loss, gradient norm, whether they are finite)` says whether a step is applied, with metrics of its own.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    grads, loss = _gradients(objective, state.params, frozen, batch, rng, microbatches, axis_name)
    if axis_name is not None:
        grads, loss = jax.lax.psum((grads, loss), axis_name)
    grads = jax.tree.map(lambda g: g / loss.weight, grads)
    norm = optax.tree.norm(grads)
    good, judged = jnp.isfinite(loss.total) & jnp.isfinite(norm) & (loss.weight > 0), {}
    empty = (loss.weight == 0) & jnp.isfinite(loss.total)
    if accept is not None:
        good, judged = accept(loss.total / loss.weight, norm, good)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    extra = state.extra if carry is None else carry(state.extra, loss.metrics)
    before = (state.params, state.opt_state, state.extra)
    params, opt_state, extra = jax.tree.map(
        lambda new, old: jnp.where(good, new, old), (params, opt_state, extra), before
    )
    bad = jnp.logical_not(good).astype(jnp.int32)
    after = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        rng=state.rng,
        skipped=state.skipped + bad,
        skipped_in_row=jnp.where(empty, state.skipped_in_row, (state.skipped_in_row + 1) * bad),
        extra=extra,
    )
    in_row = jnp.where(empty, 0, after.skipped_in_row)
    health = {"grad_norm": jnp.where(empty, 0, norm), "skipped": after.skipped, "skipped_in_row": in_row}
    return after, {
        **loss.metrics,
        **{k: (x.astype(jnp.float32), jnp.ones(())) for k, x in health.items()},
        **judged,
    }


def _gradients(
    objective: Objective,
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key,
    microbatches: int,
    axis_name: str | None,
) -> tuple[Params, Loss]:
    """Summed gradients and Loss of a batch, in parts: rows i, i + n, ... are part i, so that shards stay whole."""
    args = (objective, params, frozen, batch, rng, axis_name)
    whole = auxiliary_losses.units(*args) if microbatches > 1 else None

    def total(params: Params, part: Batch) -> tuple[Array, Loss]:
        loss = auxiliary_losses.joined(objective, params, frozen, part, rng, whole=whole, axis_name=axis_name)
        return loss.total, loss

    gradient = jax.grad(total, has_aux=True)
    if microbatches == 1:
        return gradient(params, batch)

    def split(x: Array) -> Array:
        return x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)

    def add(sums: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, gradient(params, part)), None

    parts = jax.tree.map(split, batch)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def evaluate(
    params: Params, frozen: Params, batch: Batch, *, objective: Objective, axis_name: str | None = None
) -> Metrics:
    """The objective's metrics on a batch, without randomness."""
    metrics = auxiliary_losses.joined(objective, params, frozen, batch, None).metrics
    return jax.lax.psum(metrics, axis_name) if axis_name is not None else metrics
