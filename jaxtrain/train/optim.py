"""Optimizers and schedules: optax's, put together from the flags."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxtrain import config
from jaxtrain.types import Axes, Params, sides


def schedule(settings: config.Optim, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to lr, then the schedule down to lr * end_lr at `steps`."""
    lr, end, warmup = settings.lr, settings.lr * settings.end_lr, settings.warmup
    rest = max(1, steps - warmup)
    if settings.schedule == "constant":
        after = optax.constant_schedule(lr)
    elif settings.schedule == "linear":
        after = optax.linear_schedule(lr, end, rest)
    elif settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(lr, rest, alpha=settings.end_lr)
    else:
        decay = max(1, round(rest * settings.decay_share))
        after = optax.linear_schedule(lr, end, decay, transition_begin=rest - decay)
    if not warmup:
        return after
    # The first step already moves: it uses lr / warmup, not 0.
    rise = optax.linear_schedule(lr / warmup, lr, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def decay_mask(params: Params) -> Params:
    """True where weight decay acts: on kernels and their adapters, not on norms, biases, sinks or embeddings."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key in ("kernel", "a", "b"), params)


def optimizer(
    settings: config.Optim, steps: int, axes: Axes, rates: Mapping[str, float] = MappingProxyType({})
) -> optax.GradientTransformation:
    """Clipping, then the optimizer with its schedule and decay, then the moving average of the parameters.

    `axes` are the logical axes of the parameters; muon needs them to see the matrices in stacked kernels. `rates`
    multiplies the learning rate of branches of the parameters, by the first name of their path. Raises ValueError on a
    branch that is not there.
    """
    s, lr = settings, schedule(settings, steps)
    momentum = [optax.trace(s.b1)] if s.b1 else []
    shrink = [optax.add_decayed_weights(s.weight_decay, mask=decay_mask)] if s.weight_decay else []
    makers: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adamw": lambda: optax.adamw(
            lr, b1=s.b1, b2=s.b2, eps=s.eps, weight_decay=s.weight_decay, mask=decay_mask
        ),
        "adam_tf": lambda: optax.chain(adam_tf(s.b1, s.b2, s.eps), *shrink, optax.scale_by_learning_rate(lr)),
        "lion": lambda: optax.lion(lr, b1=s.b1, b2=s.b2, weight_decay=s.weight_decay, mask=decay_mask),
        # optax's own decay is not scaled by the learning rate, as it is everywhere else here.
        "adafactor": lambda: optax.chain(
            optax.adafactor(None, multiply_by_parameter_scale=False),
            optax.scale(-1),
            *shrink,
            optax.scale_by_learning_rate(lr),
        ),
        "sgd": lambda: optax.chain(*momentum, *shrink, optax.scale_by_learning_rate(lr)),
        "rmsprop": lambda: optax.chain(
            optax.scale_by_rms(s.b2, s.eps), *momentum, *shrink, optax.scale_by_learning_rate(lr)
        ),
        "muon": lambda: optax.contrib.muon(
            lr,
            beta=s.b1,
            eps=s.eps,
            adam_b1=s.b1,
            adam_b2=s.b2,
            adam_learning_rate=schedule(dataclasses.replace(s, lr=s.adam_lr or s.lr), steps),
            weight_decay=s.weight_decay,
            weight_decay_mask=decay_mask,
            muon_weight_dimension_numbers=lambda params: _matrices(params, axes),
        ),
    }
    parts = [optax.clip_by_global_norm(s.clip)] if s.clip else []
    tx = optax.chain(*parts, makers[s.optimizer](), *([_rated(rates, axes)] if rates else []))
    return with_ema(tx, s.ema) if s.ema else tx


def adam_tf(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """m̂ / (√v̂ + ε / √(1 − b2ᵗ)): Adam with ε added to the root of the second moment before its bias is corrected.

    So TensorFlow has it, and PPO's first public code (detail 20 of Huang et al., "The N Implementation Details of RLHF
    with PPO", 2023): the first steps are smaller than Adam's where gradients are small.
    """
    plain = optax.scale_by_adam(b1, b2, eps)

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        _, state = plain.update(grads, state, params)
        root = jnp.sqrt(1.0 - b2 ** state.count.astype(jnp.float32))
        step = root / (1.0 - b1 ** state.count.astype(jnp.float32))
        return jax.tree.map(lambda m, v: step * m / (jnp.sqrt(v) + eps), state.mu, state.nu), state

    return optax.GradientTransformation(plain.init, update)


def _rated(rates: Mapping[str, float], axes: Axes) -> optax.GradientTransformation:
    branches = list(dict.fromkeys(path[0] for path in axes))
    for name in rates:
        if name not in branches:
            raise ValueError(f"no branch {name!r} of the parameters: there are {', '.join(branches)}")

    def scale(updates: Params, params: Params | None) -> Params:
        return {
            name: optax.tree.scale(rates[name], part) if name in rates else part
            for name, part in updates.items()
        }

    return optax.stateless(scale)


def _matrices(params: Params, axes: Axes) -> Params:
    """For each kernel, which of its axes are a matrix's inputs and which its outputs; None for all else."""

    def dims(path: Any, leaf: Array) -> Any:
        if path[-1].key != "kernel":
            return None
        _, reads, writes = sides(axes[tuple(entry.key for entry in path)])
        return optax.contrib.MuonDimensionNumbers(tuple(reads), tuple(writes))

    return jax.tree.map_with_path(dims, params)


class EmaState(NamedTuple):
    inner: Any
    average: Params  # of the parameters, f32


def with_ema(tx: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Keeps average = decay * average + (1 - decay) * parameters beside another optimizer's state."""

    def init(params: Params) -> EmaState:
        return EmaState(tx.init(params), jax.tree.map(jnp.copy, params))

    def update(grads: Params, state: EmaState, params: Params | None = None) -> tuple[Params, EmaState]:
        updates, inner = tx.update(grads, state.inner, params)
        after = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, after)
        return updates, EmaState(inner, average)

    return optax.GradientTransformation(init, update)


def eval_params(params: Params, opt_state: Any) -> Params:
    """The parameters to evaluate and to pass on: the moving average where there is one."""
    return opt_state.average if isinstance(opt_state, EmaState) else params
