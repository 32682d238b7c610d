"""Online DPO and XPO: a preference loss on pairs of completions that the policy itself sampled."""

import jax.numpy as jnp
from jax import Array

from jaxtrain.objectives.pair_metrics import means, pair_metrics
from jaxtrain.ops import preference
from jaxtrain.ops.logprobs import completion_logps
from jaxtrain.ops.preference import PairLogps, PreferenceSettings
from jaxtrain.types import LM, Batch, Key, Loss, Params


def online_dpo(
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    model: LM,
    loss: str,
    settings: PreferenceSettings,
    temperature: float = 1.0,
    exploration: float = 0.0,
) -> Loss:
    """Σ over pairs of LOSSES[loss] + exploration · log π(y_ref), y_ref the pair's completion from the reference model.

    Without exploration it is online DPO, equation 1 of arXiv:2402.04792 for "sigmoid"; with it XPO, the objective of
    algorithm 1 of arXiv:2405.21046, whose α it is: what the reference model would write becomes less likely, so that
    the policy leaves its support. There the second completion of each pair is from the reference model.

    Batch: completions [B, 2, T] as in ops.logprobs.completion_logps, 0 chosen and 1 rejected; ref_logps f32[B, 2],
    their summed log-probabilities under the reference model; with exploration from_reference f32[B, 2], 1 where a
    completion was sampled from it; optionally `stats/NAME` f32[B, G], numbers about the completions of the pair's
    group. A row of which either completion has no token in the mask counts nothing. `temperature` divides the logits,
    as it does in sampling and in ref_logps.

    Metrics by pair: `loss`, `rewards/*`, `logps/*`, and `loss/exploration` where it acts. Raises ValueError where
    ops.preference.check does, and on a loss that needs further columns.
    """
    preference.check(loss, settings)
    if loss in preference.COLUMNS:
        raise ValueError(
            f"loss={loss}: it reads {', '.join(preference.COLUMNS[loss])}, which rollouts do not have"
        )
    logps, lengths = completion_logps(model, params, batch, temperature=temperature)
    present = (lengths > 0).all(-1)
    reference = jnp.where(present[:, None], batch["ref_logps"], 0.0)
    ratios = preference.DIVERGENCES[settings.divergence](logps - reference, settings.alpha)
    pair = PairLogps(logps, ratios, lengths, None, None, None, None)
    row = preference.LOSSES[loss](pair, settings)
    reward = preference.rewards(loss, pair, settings)
    right = (preference.difference(reward) > 0).astype(jnp.float32)
    rows = {"rewards/accuracies": right}
    if exploration:
        explored = (batch["from_reference"] * logps).sum(-1)
        row = row + exploration * explored
        rows["loss/exploration"] = exploration * explored
    metrics = pair_metrics(reward, logps, present) | means({**rows, "loss": row}, present)
    total, count = metrics["loss"]
    return Loss(total, count, metrics | _group_means(batch))


def _group_means(batch: Batch) -> dict[str, tuple[Array, Array]]:
    """Of each column `stats/NAME` f32[B, G] the sum over all completions, and their number, those with NaN left out."""
    columns = {name.removeprefix("stats/"): x for name, x in batch.items() if name.startswith("stats/")}
    return {
        name: (jnp.where(jnp.isnan(x), 0.0, x).sum(), (~jnp.isnan(x)).sum().astype(jnp.float32))
        for name, x in columns.items()
    }
