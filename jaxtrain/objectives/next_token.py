"""Next-token prediction; with other targets and masks also masked-token prediction and fill-in-the-middle."""

import math

import jax.numpy as jnp

from jaxtrain.ops.logprobs import token_stats
from jaxtrain.types import LM, Batch, Key, Loss, Params


def next_token(
    params: Params, frozen: Params, batch: Batch, rng: Key | None, *, model: LM, z_loss: float = 0.0
) -> Loss:
    """Cross-entropy of the targets, L = Σ m · (−log p(target)) + z · Σ m · (logsumexp)², summed over rows.

    The z term keeps the logits' normaliser near 1 (PaLM, section 5, arXiv:2204.02311). Metrics: `loss` in nats a token
    without the z term, `accuracy`, `bits_per_byte`; where the rows carry the exact log-probability of their documents
    (`logp`, nats), also `bits_per_byte_above_entropy`, which an ideal model brings to 0.
    """
    want = ("logps", "correct", "lse") if z_loss else ("logps", "correct")
    stats = token_stats(model.hidden(params, batch, rng), model.head(params), batch["targets"], want=want)
    mask = batch["mask"].astype(jnp.float32)
    weighted = {name: jnp.where(mask > 0, x, 0.0) * mask for name, x in stats.items()}
    nll, tokens, size = -weighted["logps"].sum(-1), mask.sum(), batch["bytes"]
    total = nll.sum()
    metrics = {
        "loss": (total, tokens),
        "accuracy": (weighted["correct"].sum(), tokens),
        "bits_per_byte": (total / math.log(2), size.sum()),
    }
    if z_loss:
        square = (jnp.where(mask > 0, stats["lse"], 0.0) ** 2 * mask).sum()
        metrics["z_loss"] = (z_loss * square, tokens)
        total = total + z_loss * square
    if "logp" in batch:
        known = batch["has_logp"]
        excess = ((nll + batch["logp"]) * known).sum() / math.log(2)
        metrics["bits_per_byte_above_entropy"] = (excess, (size * known).sum())
    return Loss(total, tokens, metrics)
