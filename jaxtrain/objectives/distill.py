"""Distillation: a student learns the distribution of the next token that a teacher has."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxtrain.ops.divergences import DIVERGENCES, divergence, divergence_of_top
from jaxtrain.ops.logprobs import logits, token_stats
from jaxtrain.types import LM, Batch, Head, Key, Loss, Params


class DistillSettings(NamedTuple):
    divergence: str = "forward_kl"  # a name of ops.divergences.DIVERGENCES
    beta: float = 0.5  # of "jsd"
    temperature: float = 1.0  # divides the logits of teacher and student, in the divergence alone
    hard_weight: float = 0.0  # share of the cross-entropy of the tokens that stand there


def distill(
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    model: LM,
    teacher: LM | None,
    settings: DistillSettings,
) -> Loss:
    """L = Σ m · [(1 − h) · T² · D(teacher, student) − h · log p(y)], summed over rows.

    Hinton et al. (arXiv:1503.02531, section 2): T² keeps the scale of the gradient, the hard labels are at T = 1. D is
    GKD's choice (arXiv:2306.13649). The batch is that of SFT; `frozen` are the teacher's parameters, or the batch has
    the teacher's top-k: teacher_ids i32[B, T, k] and teacher_logps f32[B, T, k] (ops.divergences.divergence_of_top). A
    target for which the teacher gives no distribution, all ids −1, is a hard label of weight 1.

    Metrics: `loss`, the NLL in nats a token, and `accuracy`, as SFT has them; `divergence`, D in nats a token for which
    the teacher gives a distribution; `on_policy`, the share of rows that the student sampled, where the batch has it.
    Raises ValueError on an unknown divergence.
    """
    if settings.divergence not in DIVERGENCES:
        raise ValueError(f"divergence={settings.divergence!r}: choose one of {', '.join(DIVERGENCES)}")
    hidden, head = model.hidden(params, batch, rng), model.head(params)
    want = ("logps", "correct")
    if teacher is None:
        given = batch["teacher_ids"], batch["teacher_logps"]
        stats = token_stats(hidden, head, batch["targets"], want=want, beside=given, also=_top(settings))
        spoken = (batch["teacher_ids"] >= 0).any(-1)
    else:
        says, theirs = teacher.hidden(frozen, batch), teacher.head(frozen)
        stats = token_stats(
            hidden, head, batch["targets"], want=want, beside=(says,), also=_full(settings, theirs),
            held=theirs.weight.shape[0],
        )  # fmt: skip
        spoken = jnp.ones_like(batch["targets"], bool)
    mask = batch["mask"].astype(jnp.float32)
    known_mask = jnp.where(spoken, mask, 0.0)
    logps, apart, right = (
        jnp.where(mask > 0, stats[name], 0.0) for name in ("logps", "divergence", "correct")
    )
    soft = (1 - settings.hard_weight) * settings.temperature**2
    hard = jnp.where(spoken, settings.hard_weight, 1.0)
    tokens = mask.sum()
    metrics = {
        "loss": (-(logps * mask).sum(), tokens),
        "accuracy": ((right * mask).sum(), tokens),
        "divergence": ((apart * known_mask).sum(), known_mask.sum()),
    }
    if "on_policy" in batch:
        there = (batch["segments"] > 0).any(1).astype(jnp.float32)
        metrics["on_policy"] = ((batch["on_policy"] * there).sum(), there.sum())
    return Loss((soft * apart * known_mask - hard * logps * mask).sum(), tokens, metrics)


def _full(settings: DistillSettings, head: Head):
    def also(x: Array, says: Array) -> dict[str, Array]:
        value = divergence(
            logits(says, head), x, settings.divergence, beta=settings.beta, temperature=settings.temperature
        )
        return {"divergence": value}

    return also


def _top(settings: DistillSettings):
    def also(x: Array, ids: Array, logps: Array) -> dict[str, Array]:
        value = divergence_of_top(
            ids, logps, x, settings.divergence, beta=settings.beta, temperature=settings.temperature
        )
        return {"divergence": value}

    return also
