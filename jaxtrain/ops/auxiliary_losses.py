"""Losses of the model itself, such as those that balance a router: from the model to the step, past every objective.

A model emits them where it computes its hidden states; the step, which differentiates, collects them. An auxiliary loss
is a mean over units of its own (tokens), whatever the objective's are (tokens, pairs, sequences), so the step minimises

    Σ loss / Σ weight + Σ auxiliary loss / Σ auxiliary weight,

each sum over all rows, devices and microbatches. Where nothing collects, an emitted loss goes nowhere.
"""

import contextvars
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.types import Batch, Key, Loss, Objective, Params

_collected: contextvars.ContextVar[list[Loss] | None] = contextvars.ContextVar("auxiliary", default=None)


def emit(loss: Loss) -> None:
    """Adds a loss to those of the objective that is being computed."""
    found = _collected.get()
    if found is not None:
        found.append(loss)


def _observed(f: Callable[..., Any], *args: Any) -> tuple[Any, list[Loss]]:
    found: list[Loss] = []
    token = _collected.set(found)
    try:
        return f(*args), found
    finally:
        _collected.reset(token)


def mapped(f: Callable[[Any], Any], members: Any) -> Any:
    """jax.lax.map(f, members) over the members of an ensemble, which are trained each as if alone.

    So the totals that f emits are added, while the units are those of one member, and metrics are the members' mean.
    """
    out, found = jax.lax.map(lambda member: _observed(f, member), members)
    for loss in found:
        weight, metrics = jax.tree.map(lambda x: x.mean(0), (loss.weight, loss.metrics))
        emit(Loss(loss.total.sum(0), weight, metrics))
    return out


def units(
    objective: Objective,
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    axis_name: str | None = None,
) -> tuple[Array, list[Array]] | None:
    """(the objective's weight, that of each auxiliary loss) of a batch, None where there is no auxiliary loss.

    Over the devices of `axis_name` they are summed. Weights depend on the loss masks alone, so XLA removes the model
    that is traced to find them.
    """
    if not jax.eval_shape(lambda *args: _observed(objective, *args), params, frozen, batch, rng)[1]:
        return None
    return _summed(*_observed(objective, params, frozen, batch, rng), axis_name)


def _summed(loss: Loss, found: Sequence[Loss], axis_name: str | None) -> tuple[Array, list[Array]]:
    weights = loss.weight, [each.weight for each in found]
    return weights if axis_name is None else jax.lax.psum(weights, axis_name)


def joined(
    objective: Objective,
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    whole: tuple[Array, Sequence[Array]] | None = None,
    axis_name: str | None = None,
) -> Loss:
    """The objective's Loss with the model's auxiliary losses in its total, scaled by Σ weight / Σ auxiliary weight.

    `whole` are the `units` of the batch that this one is a part of; without it they are this one's.
    """
    loss, found = _observed(objective, params, frozen, batch, rng)
    if not found:
        return loss
    weight, weights = whole or _summed(loss, found, axis_name)
    total, metrics = loss.total, dict(loss.metrics)
    for each, own in zip(found, weights, strict=True):
        total = total + jax.lax.stop_gradient(weight / jnp.maximum(own, 1.0)) * each.total
        for name, pair in each.metrics.items():
            metrics[name] = jax.tree.map(jnp.add, metrics[name], pair) if name in metrics else pair
    return Loss(total, loss.weight, metrics)
