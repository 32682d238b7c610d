"""GRPO and its kin, and of PPO what is about the policy: completions that an older policy sampled, with advantages."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxtrain.ops.entropy_bonus import entropy_bonus
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.ops.policy_gradient import (
    SURROGATES,
    PolicyGradientSettings,
    check,
    kl_loss,
    ratio,
    token_weights,
)
from jaxtrain.ops.returns import kl_estimate
from jaxtrain.types import LM, Batch, Head, Key, Loss, Params

Found = dict[str, tuple[Array, Array]]


def policy_gradient(
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    model: LM,
    settings: PolicyGradientSettings,
) -> Loss:
    """Σ w_t · (surrogate_t + kl_weight · KL_t − entropy_weight · H_t) + PPO-ptx, summed over rows; without dropout.

    Batch: tokens, targets, segments, positions i32[B, T], mask f32[B, T]; old_logps, advantages f32[B, T], the sampled
    tokens' log-probabilities under the policy that sampled, and what each is worth; ref_logps f32[B, T] where
    kl_weight acts; optionally `stats/NAME` f32[B], numbers about completions to report as NAME, and entropy_coef f32[B]
    in place of entropy_weight; for ptx_weight the columns of `pretraining_part`. Loss.weight is in units of
    ops.policy_gradient.token_weights.

    Metrics: `loss` by unit, `loss/policy_avg`; by token `policy/approxkl_avg` (k3 of old against new),
    `policy/clipfrac_avg`, `policy/entropy_avg`, `val/ratio`, and `kl`, k3 to the reference, where there is one. Raises
    ValueError where ops.policy_gradient.check does.
    """
    check(settings, critic=False)
    units, total, metrics = policy_part(model.hidden(params, batch), model.head(params), batch, settings)
    if settings.ptx_weight:
        extra, ptx_metrics = pretraining_part(
            lambda rows: model.hidden(params, rows), model.head(params), batch, settings
        )
        total, metrics = total + extra, metrics | ptx_metrics
    return Loss(total, units, {"loss": (total, units), **metrics, **episode_means(batch)})


def policy_part(
    hidden: Array, head: Head, batch: Batch, settings: PolicyGradientSettings
) -> tuple[Array, Array, Found]:
    """(units, total f32[], metrics) of the policy's terms, from its hidden states f[B, T, D]."""
    want = ("logps", "entropy") if settings.entropy or settings.entropy_weight else ("logps",)
    stats = token_stats(hidden, head, batch["targets"], temperature=settings.temperature, want=want)
    mask = batch["mask"].astype(jnp.float32)
    weights, units = token_weights(mask, settings.aggregate, settings.limit)
    tokens = mask.sum()

    def inside(x: Array) -> Array:
        return jnp.where(mask > 0, x, 0.0)

    logps, old, advantages = inside(stats["logps"]), inside(batch["old_logps"]), inside(batch["advantages"])
    r = ratio(logps, old, mask, settings.level)
    losses, clipped = SURROGATES[settings.surrogate](
        r, logps, advantages, settings.clip_low, settings.clip_high
    )
    policy = (weights * losses).sum()
    total = policy
    metrics = {
        "loss/policy_avg": (policy, units),
        "policy/approxkl_avg": ((kl_estimate(old, logps, "k3") * mask).sum(), tokens),
        "policy/clipfrac_avg": ((clipped * mask).sum(), tokens),
        "val/ratio": ((r * mask).sum(), tokens),
    }
    if "entropy" in stats:
        entropy = inside(stats["entropy"])
        metrics["policy/entropy_avg"] = ((entropy * mask).sum(), tokens)
        total = total - entropy_bonus(weights * entropy, batch, settings.entropy_weight)
    if settings.kl_weight:
        reference = inside(batch["ref_logps"])
        metrics["kl"] = ((kl_estimate(logps, reference, "k3") * mask).sum(), tokens)
        total = total + settings.kl_weight * (weights * kl_loss(logps, old, reference, settings.kl)).sum()
    return units, total, metrics


def pretraining_part(
    hidden: Callable[[Batch], Array], head: Head, batch: Batch, settings: PolicyGradientSettings
) -> tuple[Array, Found]:
    """(ptx_weight · Σ_rows ptx_scale · Σ_t NLL, metrics): PPO-ptx, equation 2 of arXiv:2203.02155.

    The rows are columns `ptx/tokens` and so on, [B, T'], as in next-token training; ptx_scale f32[B] makes of the
    sum what the term is after the step has divided by Loss.weight. Temperature has no part in it.
    """
    rows = {name.removeprefix("ptx/"): x for name, x in batch.items() if name.startswith("ptx/")}
    mask = rows["mask"].astype(jnp.float32)
    logps = token_stats(hidden(rows), head, rows["targets"])["logps"]
    nll = -(jnp.where(mask > 0, logps, 0.0) * mask).sum(1)
    return settings.ptx_weight * (batch["ptx_scale"] * nll).sum(), {"ptx_loss": (nll.sum(), mask.sum())}


def episode_means(batch: Batch) -> Found:
    """Of each column `stats/NAME` f32[B] the sum over rows, those out of the loss too, and their number.

    Rows with NaN, to which the number does not apply, are left out.
    """
    there = (batch["segments"] > 0).any(1)
    columns = {name.removeprefix("stats/"): x for name, x in batch.items() if name.startswith("stats/")}
    return {
        name: (jnp.where(here, x, 0.0).sum(), here.sum().astype(jnp.float32))
        for name, x in columns.items()
        for here in [there & ~jnp.isnan(x)]
    }
