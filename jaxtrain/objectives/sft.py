"""Supervised fine-tuning on the completions of packed dialogs."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.objectives.tokens import masked_stats, z_term
from jaxtrain.types import LM, Batch, Key, Loss, Params

LOSSES = ("nll", "dft")


def sft(
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    model: LM,
    loss: str,
    dft_power: float,
    label_smoothing: float,
    z_loss: float,
) -> Loss:
    """Cross-entropy of the completion tokens, L = Σ m · w · [(1−ε) · (−log p(y)) + ε · (−Σ_v log p(v) / V)].

    `loss` is "nll", w = 1, or "dft", w = sg(p(y)^α) with α = `dft_power`. At 1 it is dynamic fine-tuning
    (arXiv:2508.05629), which takes the 1/p out of the gradient of the NLL; below 1 it has the gradient of (1 − p^α)/α
    (arXiv:2510.00526), least where p is the data's distribution at temperature 1 − α. ε is `label_smoothing`; `z_loss`
    adds z · Σ m · (logsumexp)². The batch is that of next-token training, with mask 1 on the tokens that the assistant
    says, end of turn included.

    Metrics: `loss`, the plain NLL in nats a token whatever is trained on, so that runs compare; `accuracy`; `z_loss`
    where it acts. Raises ValueError on an unknown loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: choose one of {', '.join(LOSSES)}")
    want = ("logps", "correct", *["mean_logps"] * (label_smoothing > 0), *["lse"] * (z_loss > 0))
    stats, mask = masked_stats(params, batch, rng, model=model, want=want)
    tokens, logps = mask.sum(), stats["logps"]
    total = (_token_loss(stats, loss, dft_power, label_smoothing) * mask).sum()
    metrics = {
        "loss": (-(logps * mask).sum(), tokens),
        "accuracy": ((stats["correct"] * mask).sum(), tokens),
    }
    if z_loss:
        z = z_term(stats["lse"], mask, z_loss)
        metrics["z_loss"] = (z, tokens)
        total = total + z
    return Loss(total, tokens, metrics)


def _token_loss(stats: dict[str, Array], loss: str, dft_power: float, label_smoothing: float) -> Array:
    logps = stats["logps"]
    out = -logps
    if label_smoothing:
        out = (1 - label_smoothing) * out - label_smoothing * stats["mean_logps"]
    return jax.lax.stop_gradient(jnp.exp(dft_power * logps)) * out if loss == "dft" else out
