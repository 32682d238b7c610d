"""Next-token prediction; with other targets and masks also masked-token prediction and fill-in-the-middle."""

import math

from jaxtrain.objectives.tokens import masked_stats, z_term
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
    stats, mask = masked_stats(params, batch, rng, model=model, want=want)
    nll, tokens, size = -(stats["logps"] * mask).sum(-1), mask.sum(), batch["bytes"]
    total = nll.sum()
    metrics = {
        "loss": (total, tokens),
        "accuracy": ((stats["correct"] * mask).sum(), tokens),
        "bits_per_byte": (total / math.log(2), size.sum()),
    }
    if z_loss:
        z = z_term(stats["lse"], mask, z_loss)
        metrics["z_loss"] = (z, tokens)
        total = total + z
    if "logp" in batch:
        known = batch["has_logp"]
        excess = ((nll + batch["logp"]) * known).sum() / math.log(2)
        metrics["bits_per_byte_above_entropy"] = (excess, (size * known).sum())
    return Loss(total, tokens, metrics)
