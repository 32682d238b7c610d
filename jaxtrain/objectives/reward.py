"""Reward models from comparisons of two or more completions of a prompt."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxtrain.ops import preference
from jaxtrain.types import Batch, Key, Loss, Params

LOSSES = ("logistic", "hinge", "plackett_luce")


def reward(
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    scores: Callable[[Params, Batch], Array],
    loss: str,
    centering: float,
) -> Loss:
    """The loss of each prompt's comparisons under scores(params, batch) f32[M, B, N], one for each of M members.

    "logistic" and "hinge" (ops.preference.bradley_terry, score_hinge) read prefer f32[B, N, N] and margin f32[B], and
    a row weighs what its comparisons weigh together. "plackett_luce" reads rank i32[B, N], and a row with a comparison
    weighs 1. To each comparison `centering` · (s_i + s_j)² is added.

    Total sums over members while weight counts rows once: each member's gradient is that of its training alone (but
    for a clip of the gradient's norm, which is over all). An optional column weight f32[B, M] weighs rows for each
    member; as a bootstrap its mean is 1, and weight does not count it.

    Metrics: `loss`, a member's mean without the centering; of the mean score over members, by comparison that is
    decided (prefer_ij > prefer_ji): `rewards/chosen`, `rewards/rejected`, `rewards/margins`, and `rewards/accuracies`,
    where a tie of scores is wrong; `centering` where it acts. Raises ValueError on an unknown loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: choose one of {', '.join(LOSSES)}")
    member_scores = scores(params, batch)
    weights = batch["weight"].T if "weight" in batch else jnp.ones(member_scores.shape[:2])
    prefer = preference.pairs(batch["rank"]) if loss == "plackett_luce" else batch["prefer"]
    units = prefer.sum((1, 2))

    def row_loss(member: Array) -> Array:
        if loss == "plackett_luce":
            return jnp.where(units > 0, preference.plackett_luce(member, batch["rank"]), 0.0)
        link = preference.bradley_terry if loss == "logistic" else preference.score_hinge
        return link(member, prefer, batch["margin"])

    members = range(len(member_scores))
    total = sum((weights[m] * row_loss(member_scores[m])).sum() for m in members)
    weight = units.sum()
    metrics = {"loss": (total / len(member_scores), weight), **_metrics(member_scores.mean(0), prefer)}
    if centering:
        extra = (
            sum((weights[m] * preference.centering(member_scores[m], prefer)).sum() for m in members)
            * centering
        )
        metrics["centering"] = (extra / len(member_scores), weight)
        total = total + extra
    return Loss(total, weight, metrics)


def _metrics(score: Array, prefer: Array) -> dict[str, tuple[Array, Array]]:
    """Sums over decided comparisons; score f32[B, N], prefer f32[B, N, N]."""
    decided = prefer > prefer.swapaxes(1, 2)
    count = decided.sum().astype(jnp.float32)
    won, lost = score[:, :, None], score[:, None, :]
    values = {"chosen": won, "rejected": lost, "margins": won - lost, "accuracies": won > lost}
    return {f"rewards/{name}": (jnp.where(decided, x, 0.0).sum(), count) for name, x in values.items()}
