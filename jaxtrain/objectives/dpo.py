"""Direct preference optimisation and its family: the policy is trained on comparisons, without a reward model."""

import jax.numpy as jnp
from jax import Array

from jaxtrain.objectives.pair_metrics import means, pair_metrics
from jaxtrain.ops import preference
from jaxtrain.ops.logprobs import COMPLETIONS, completion_logps
from jaxtrain.ops.preference import PairLogps, PreferenceSettings
from jaxtrain.types import LM, Batch, Key, Loss, Params


def dpo(
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Key | None,
    *,
    model: LM,
    loss: str,
    settings: PreferenceSettings,
) -> Loss:
    """Σ over pairs of LOSSES[loss] + nll_weight · (−log π(y_w) / |y_w|) (RPO, arXiv:2404.19733).

    The batch holds completions [B, 2, T] as in ops.logprobs.completion_logps, 0 chosen and 1 rejected, and where the
    loss has a reference, ref_logps f32[B, 2], the completions' summed log-probabilities under it. A column prefer
    f32[B, 2, 2] gives soft labels: the loss is then its mean over the label, which for "sigmoid" is cDPO. Further
    columns are in ops.preference.COLUMNS. A row of which either completion has no token in the mask counts nothing.

    Metrics by pair: `loss` with the NLL in it, `rewards/*`, `logps/*`, `nll_loss` where it acts, and `rewards/held`,
    the share of completions beyond MAX_EXPONENT, where the divergence has one. `rewards/accuracies` is over pairs
    whose label is not a tie, and equal rewards are wrong: 0 where the policy is the reference. Raises ValueError where
    ops.preference.check does, and on "kto", which has an objective of its own.
    """
    preference.check(loss, settings)
    if loss == "kto":
        raise ValueError("loss=kto: its completions are not pairs; objectives.dpo.kto is its objective")
    h, pair, present = _pair(params, batch, model, loss, settings)
    prefer = batch.get("prefer")
    row = _row_loss(loss, pair, settings)
    if prefer is not None:
        row = prefer[:, 0, 1] * row + prefer[:, 1, 0] * _row_loss(loss, preference.swapped(pair), settings)
    total, count = jnp.where(present, row, 0.0).sum(), present.sum().astype(jnp.float32)
    reward = preference.rewards(loss, pair, settings)
    decided = present if prefer is None else present & (prefer[:, 0, 1] != prefer[:, 1, 0])
    sign = 1.0 if prefer is None else jnp.sign(prefer[:, 0, 1] - prefer[:, 1, 0])
    right = decided & (sign * preference.difference(reward) > 0)
    metrics = {
        "loss": (total, count),
        "rewards/accuracies": (right.sum().astype(jnp.float32), decided.sum().astype(jnp.float32)),
        **pair_metrics(reward, pair.logps, present),
    }
    if settings.nll_weight:
        metrics |= means({"nll_loss": _nll(pair)}, present)
    if settings.divergence in ("forward_kl", "alpha"):
        metrics |= means({"rewards/held": preference.capped(h, settings).mean(-1)}, present)
    return Loss(total, count, metrics)


def kto(
    params: Params, frozen: Params, batch: Batch, rng: Key | None, *, model: LM, settings: PreferenceSettings
) -> Loss:
    """Σ over completions of KTO's loss (ops.preference.kto): each is desirable or not, by itself.

    The batch is that of `dpo`, where alternative 0 is the completion and only it is computed, with label f32[B],
    1 desirable and 0 undesirable, and kl f32[B], z₀ ≥ 0, which is measured beforehand on mismatched completions
    (ops.preference.kl_shift). A row whose completion has no token in the mask counts nothing.

    Metrics by completion: `loss` and `kl`; `rewards/chosen` and `logps/chosen` over the desirable ones,
    `rewards/rejected` and `logps/rejected` over the others. Raises ValueError where ops.preference.check does.
    """
    preference.check("kto", settings)
    own = {name: batch[name][:, :1] for name in (*COMPLETIONS, "ref_logps")}
    _, pair, present = _pair(params, {**batch, **own}, model, "kto", settings)
    count = present.sum().astype(jnp.float32)
    total = jnp.where(present, preference.kto(pair, settings), 0.0).sum()
    reward = settings.beta * pair.ratios[:, 0]
    metrics = {"loss": (total, count), **means({"kl": pair.kl}, present)}
    for name, chosen in (("chosen", pair.label > 0.5), ("rejected", pair.label <= 0.5)):
        metrics |= means({f"rewards/{name}": reward, f"logps/{name}": pair.logps[:, 0]}, present & chosen)
    return Loss(total, count, metrics)


def _pair(
    params: Params, batch: Batch, model: LM, loss: str, settings: PreferenceSettings
) -> tuple[Array, PairLogps, Array]:
    """(h f32[B, N], what the link reads, bool[B] rows whose every completion has tokens)."""
    logps, lengths = completion_logps(model, params, batch)
    present = (lengths > 0).all(-1)
    h = logps
    if loss in preference.NEEDS_REFERENCE and not settings.reference_free:
        h = logps - jnp.where(present[:, None], batch["ref_logps"], 0.0)
    ratios = preference.DIVERGENCES[settings.divergence](h, settings.alpha)
    columns = dict.fromkeys(("shift", "partner", "kl", "label"))
    columns |= {name: batch[name] for name in preference.COLUMNS.get(loss, ())}
    return h, PairLogps(logps, ratios, lengths, **columns), present


def _nll(pair: PairLogps) -> Array:
    """f32[B]: of the chosen completion, nats a token."""
    return -pair.logps[:, 0] / jnp.maximum(pair.lengths[:, 0], 1.0)


def _row_loss(loss: str, pair: PairLogps, settings: PreferenceSettings) -> Array:
    row = preference.LOSSES[loss](pair, settings)
    return row + settings.nll_weight * _nll(pair) if settings.nll_weight else row
