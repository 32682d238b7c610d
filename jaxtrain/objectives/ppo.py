"""Proximal policy optimisation with a value function: policy and values are trained on the same sampled tokens."""

import jax.numpy as jnp
from jax import Array

from jaxtrain.objectives.policy_gradient import episode_means, policy_part, pretraining_part
from jaxtrain.ops.policy_gradient import PolicyGradientSettings, check, token_weights, value_loss
from jaxtrain.types import ActorCritic, Batch, Key, Loss, Params


def ppo(
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    model: ActorCritic,
    settings: PolicyGradientSettings,
) -> Loss:
    """The loss of objectives.policy_gradient + value_weight · Σ w_t · value_loss_t, summed over rows; without dropout.

    PPO, equation 9 of arXiv:1707.06347. The batch has, beyond what it has there, old_values and returns f32[B, T]: at t
    the value of the state before target t as it was, and what it should have been (ops.returns.gae).

    Metrics: those of objectives.policy_gradient, and `loss/value_avg`, without its weight, and `val/clipfrac_avg` by
    token. Raises ValueError where ops.policy_gradient.check does.
    """
    check(settings)
    hidden, values = model.look(params, batch)
    head = model.head(params)
    units, total, metrics = policy_part(hidden, head, batch, settings)
    mask = batch["mask"].astype(jnp.float32)

    def inside(x: Array) -> Array:
        return jnp.where(mask > 0, x, 0.0)

    losses, clipped = value_loss(
        inside(values), inside(batch["old_values"]), inside(batch["returns"]), settings.value_clip
    )
    value = (token_weights(mask, settings.aggregate, settings.limit)[0] * losses).sum()
    total = total + settings.value_weight * value
    metrics |= {
        "loss/value_avg": (value, units),
        "val/clipfrac_avg": ((clipped * mask).sum(), mask.sum()),
    }
    if settings.ptx_weight:
        extra, ptx_metrics = pretraining_part(lambda rows: model.look(params, rows)[0], head, batch, settings)
        total, metrics = total + extra, metrics | ptx_metrics
    return Loss(total, units, {"loss": (total, units), **metrics, **episode_means(batch)})
