"""Losses on comparisons of completions. Each is a link from a pair's statistics to f32[B], in a few lines.

Notation: y_w the chosen completion, y_l the rejected one, h = log π(y|x) − log ref(y|x), summed over the completion;
r = β·h the implicit reward; Δ = r_w − r_l; σ the sigmoid; ε the label smoothing.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, sigmoid

# Implicit rewards of some divergences grow as exp(-h). Past this exponent they stand still, and are counted: the
# squares of their gradients are then still f32 numbers.
MAX_EXPONENT = 40.0
# The f32 number next to 1 is this far from it: a likelihood nearer to 1 has no odds.
CERTAIN = -(2.0**-24)


class PreferenceSettings(NamedTuple):
    """Settings of the losses. ACTS says which of them acts in which loss."""

    beta: float  # strength of the pull towards the reference; scale of the reward; ORPO's λ
    label_smoothing: float | Array  # ε, probability that a label is flipped; a number or f32[B]
    divergence: str  # a name of DIVERGENCES: what keeps the policy near the reference
    alpha: float  # the order of divergence "alpha", between 0 (reverse KL) and 1 (forward KL)
    reference_free: bool  # log ref is taken as 0
    length_penalty: float  # R-DPO's price of a completion token, in units of reward
    nll_weight: float  # what is added of the chosen completion's NLL a token
    summed: bool  # IPO on log-ratios of completions, not on their means a token
    gamma: float  # SimPO's target margin, in units of reward
    tau: float  # DiscoPOP's temperature
    desirable_weight: float  # KTO's λ_D
    undesirable_weight: float  # KTO's λ_U


class PairLogps(NamedTuple):
    """Statistics of B comparisons, the last axis chosen and rejected. A column that the loss does not read is None."""

    logps: Array  # f32[B, 2]  Σ_t log π(y_t)
    ratios: Array  # f32[B, 2]  implicit reward before β: h under the reverse KL; logps where there is no reference
    lengths: Array  # f32[B, 2]  completion tokens
    shift: Array | None  # f32[B]  BCO's δ, in units of reward
    partner: Array | None  # f32[B]  AOT: the reference's log-ratio of the same rank
    kl: Array | None  # f32[B]  KTO's z₀ ≥ 0
    label: Array | None  # f32[B]  KTO: 1 desirable, 0 undesirable; the completion is alternative 0


Link = Callable[[PairLogps, PreferenceSettings], Array]


def difference(x: Array) -> Array:
    """f32[B]: chosen minus rejected."""
    return x[:, 0] - x[:, 1]


def _rewards(pair: PairLogps, s: PreferenceSettings) -> tuple[Array, Array]:
    r = s.beta * pair.ratios
    return r[:, 0], r[:, 1]


def _margin(pair: PairLogps, s: PreferenceSettings) -> Array:
    """Δ + α(|y_w| − |y_l|). The reward that π's log-ratio stands for is r − α|y|: R-DPO, arXiv:2403.19159."""
    return s.beta * difference(pair.ratios) + s.length_penalty * difference(pair.lengths)


def _per_token(x: Array, pair: PairLogps) -> Array:
    return x / jnp.maximum(pair.lengths, 1.0)


def _smoothed(z: Array, eps: float | Array) -> Array:
    return -(1 - eps) * log_sigmoid(z) - eps * log_sigmoid(-z)


def sigmoid_loss(pair: PairLogps, s: PreferenceSettings) -> Array:
    """−(1−ε) log σ(Δ) − ε log σ(−Δ). DPO, equation 7 of arXiv:2305.18290; ε > 0 is cDPO."""
    return _smoothed(_margin(pair, s), s.label_smoothing)


def hinge(pair: PairLogps, s: PreferenceSettings) -> Array:
    """max(0, 1 − Δ). SLiC's hinge (arXiv:2305.10425) on log-ratios, as RSO has it (arXiv:2309.06657)."""
    return jnp.maximum(0.0, 1.0 - _margin(pair, s))


def ipo(pair: PairLogps, s: PreferenceSettings) -> Array:
    """(h_w/|y_w| − h_l/|y_l| − 1/(2β))², equation 17 of arXiv:2310.12036; with `summed`, h itself as printed there."""
    h = pair.ratios if s.summed else _per_token(pair.ratios, pair)
    return (difference(h) - 1 / (2 * s.beta)) ** 2


def robust(pair: PairLogps, s: PreferenceSettings) -> Array:
    """[−(1−ε) log σ(Δ) + ε log σ(−Δ)] / (1−2ε): its mean over labels flipped with probability ε is the clean loss.

    Robust DPO, arXiv:2403.00409. ε < 1/2.
    """
    z, eps = _margin(pair, s), s.label_smoothing
    return (-(1 - eps) * log_sigmoid(z) + eps * log_sigmoid(-z)) / (1 - 2 * eps)


def exo_pair(pair: PairLogps, s: PreferenceSettings) -> Array:
    """KL(p ‖ q) = σ(Δ)[log σ(Δ) − log(1−ε)] + σ(−Δ)[log σ(−Δ) − log ε], EXO, equation 16 of arXiv:2402.00856. ε > 0."""
    z, eps = _margin(pair, s), s.label_smoothing
    return sigmoid(z) * (log_sigmoid(z) - jnp.log1p(-eps)) + sigmoid(-z) * (log_sigmoid(-z) - jnp.log(eps))


def nca_pair(pair: PairLogps, s: PreferenceSettings) -> Array:
    """−log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l). NCA for two completions, arXiv:2402.05369."""
    won, lost = _rewards(pair, s)
    return -log_sigmoid(won) - 0.5 * log_sigmoid(-won) - 0.5 * log_sigmoid(-lost)


def bco_pair(pair: PairLogps, s: PreferenceSettings) -> Array:
    """−log σ(r_w − δ) − log σ(δ − r_l), δ the running mean of ½(r_w + r_l). BCO, arXiv:2404.04656."""
    won, lost = _rewards(pair, s)
    return -log_sigmoid(won - pair.shift) - log_sigmoid(pair.shift - lost)


def sppo_hard(pair: PairLogps, s: PreferenceSettings) -> Array:
    """(h_w − 1/(2β))² + (h_l + 1/(2β))². SPPO, equation 4.7 of arXiv:2405.00675 with win probabilities 1 and 0."""
    half = 0.5 / s.beta
    return (pair.ratios[:, 0] - half) ** 2 + (pair.ratios[:, 1] + half) ** 2


def apo_zero(pair: PairLogps, s: PreferenceSettings) -> Array:
    """1 − σ(r_w) + σ(r_l): chosen up, rejected down. APO, equation 7 of arXiv:2408.06266."""
    won, lost = _rewards(pair, s)
    return sigmoid(-won) + sigmoid(lost)


def apo_down(pair: PairLogps, s: PreferenceSettings) -> Array:
    """σ(r_w) + 1 − σ(r_w − r_l): both down, rejected more. APO, equation 8 of arXiv:2408.06266."""
    won, lost = _rewards(pair, s)
    return sigmoid(won) + sigmoid(lost - won)


def aot(pair: PairLogps, s: PreferenceSettings) -> Array:
    """Logistic loss of β(log π(y_w) − log π(y_l) − partner): the distribution of margins above the reference's.

    The partner is the reference's log-ratio of the same rank in the batch, see `matched`. AOT, arXiv:2406.05882.
    """
    return _smoothed(s.beta * (difference(pair.logps) - pair.partner), s.label_smoothing)


def discopop(pair: PairLogps, s: PreferenceSettings) -> Array:
    """(1−m)·(−log σ(Δ)) + m·e^(−Δ), m = σ(Δ/τ). DiscoPOP, equation 5 of arXiv:2406.08414."""
    z = _margin(pair, s)
    # m·e^(−Δ) as one exponential: apart they are 0 · ∞ where Δ is far below 0.
    return -sigmoid(-z / s.tau) * log_sigmoid(z) + jnp.exp(log_sigmoid(z / s.tau) - z)


def sigmoid_norm(pair: PairLogps, s: PreferenceSettings) -> Array:
    """DPO on h_w/|y_w| − h_l/|y_l|, the length-normalised ablation in SimPO's paper (arXiv:2405.14734)."""
    return _smoothed(s.beta * difference(_per_token(pair.ratios, pair)), s.label_smoothing)


def simpo(pair: PairLogps, s: PreferenceSettings) -> Array:
    """−log σ(β log π(y_w)/|y_w| − β log π(y_l)/|y_l| − γ), without reference. SimPO, arXiv:2405.14734."""
    return _smoothed(s.beta * difference(_per_token(pair.logps, pair)) - s.gamma, s.label_smoothing)


def orpo(pair: PairLogps, s: PreferenceSettings) -> Array:
    """−λ log σ(log odds(y_w) − log odds(y_l)), log odds = ℓ − log(1 − e^ℓ), ℓ = log π(y)/|y|; λ is `beta`.

    ORPO, equations 4 and 7 of arXiv:2403.07691; its NLL term is `nll_weight`.
    """
    mean = jnp.minimum(_per_token(pair.logps, pair), CERTAIN)
    return -s.beta * log_sigmoid(difference(mean - jax.nn.log1mexp(-mean)))


def cpo(pair: PairLogps, s: PreferenceSettings) -> Array:
    """−log σ(β(log π(y_w) − log π(y_l))), without reference. CPO, equation 3 of arXiv:2401.08417.

    Its NLL term is `nll_weight`, here a token, there a completion.
    """
    return _smoothed(s.beta * difference(pair.logps), s.label_smoothing)


def kto(pair: PairLogps, s: PreferenceSettings) -> Array:
    """λ_D (1 − σ(r − βz₀)) where desirable, λ_U (1 − σ(βz₀ − r)) where not. KTO, arXiv:2402.01306.

    r is the reward of alternative 0; there need be no other.
    """
    z = s.beta * (pair.ratios[:, 0] - pair.kl)
    good, bad = s.desirable_weight * sigmoid(-z), s.undesirable_weight * sigmoid(z)
    return pair.label * good + (1 - pair.label) * bad


LOSSES: Mapping[str, Link] = {
    "sigmoid": sigmoid_loss,
    "hinge": hinge,
    "ipo": ipo,
    "robust": robust,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "aot": aot,
    "discopop": discopop,
    "sigmoid_norm": sigmoid_norm,
    "simpo": simpo,
    "orpo": orpo,
    "cpo": cpo,
    "kto": kto,
}

NEEDS_REFERENCE = frozenset(LOSSES) - {"simpo", "orpo", "cpo"}
# Columns f32[B] of the batch that a loss reads besides the completions and the reference.
COLUMNS: Mapping[str, tuple[str, ...]] = {"bco_pair": ("shift",), "aot": ("partner",), "kto": ("kl", "label")}
# Losses whose reward is a mean a token.
NORMALISED = frozenset({"sigmoid_norm", "simpo", "orpo"})

_ANY = frozenset({"beta", "nll_weight"})
_DIVERGING = _ANY | {"divergence", "alpha", "reference_free"}
_MARGIN = _DIVERGING | {"length_penalty"}
# The settings that act in each loss; any other does nothing there.
ACTS: Mapping[str, frozenset[str]] = {
    "sigmoid": _MARGIN | {"label_smoothing"},
    "hinge": _MARGIN,
    "ipo": _ANY | {"summed", "reference_free"},
    "robust": _MARGIN | {"label_smoothing"},
    "exo_pair": _MARGIN | {"label_smoothing"},
    "nca_pair": _DIVERGING,
    "bco_pair": _DIVERGING,
    "sppo_hard": _ANY | {"reference_free"},
    "apo_zero": _DIVERGING,
    "apo_down": _DIVERGING,
    "aot": _ANY | {"label_smoothing"},
    "discopop": _MARGIN | {"tau"},
    "sigmoid_norm": _ANY | {"label_smoothing", "reference_free"},
    "simpo": _ANY | {"label_smoothing", "gamma"},
    "orpo": _ANY,
    "cpo": _ANY | {"label_smoothing"},
    "kto": frozenset({"beta", "desirable_weight", "undesirable_weight"}),
}
# What each setting is where it is left alone; the rest have no such value.
_ALONE: Mapping[str, object] = {
    "label_smoothing": 0.0,
    "divergence": "reverse_kl",
    "reference_free": False,
    "length_penalty": 0.0,
    "nll_weight": 0.0,
    "summed": False,
}


def check(loss: str, s: PreferenceSettings) -> None:
    """Raises ValueError where the loss is unknown, a setting would do nothing in it, or it is not defined there."""
    if loss not in LOSSES:
        raise ValueError(f"loss={loss}: choose one of {', '.join(LOSSES)}")
    for name, alone in _ALONE.items():
        value = getattr(s, name)
        if name not in ACTS[loss] and (not isinstance(value, float | int | str) or value != alone):
            raise ValueError(f"{name}={value} does nothing in loss={loss}; leave it at {alone}")
    if s.divergence not in DIVERGENCES:
        raise ValueError(f"divergence={s.divergence}: choose one of {', '.join(DIVERGENCES)}")
    if s.divergence == "alpha" and not 0 < s.alpha < 1:
        raise ValueError(f"alpha={s.alpha}: must lie between 0 (reverse_kl) and 1 (forward_kl)")
    if s.beta <= 0:
        raise ValueError(f"beta={s.beta}: must be above 0")
    low, high = {"robust": (0.0, 0.5), "exo_pair": (1e-12, 1.0)}.get(loss, (0.0, 1.0))
    if isinstance(s.label_smoothing, float | int) and not low <= s.label_smoothing < high:
        raise ValueError(
            f"label_smoothing={s.label_smoothing}: loss={loss} needs a value from {low:g} to below {high:g}"
        )


# f'(π/ref) − f'(1) as a function of h and α: the implicit reward over β. Table 1 of arXiv:2309.16240.
DIVERGENCES: Mapping[str, Callable[[Array, float], Array]] = {
    "reverse_kl": lambda h, alpha: h,
    "forward_kl": lambda h, alpha: -jnp.expm1(jnp.minimum(-h, MAX_EXPONENT)),
    "js": lambda h, alpha: jnp.log(2.0) + log_sigmoid(h),
    "alpha": lambda h, alpha: -jnp.expm1(jnp.minimum(-alpha * h, MAX_EXPONENT)) / alpha,
}


def capped(h: Array, s: PreferenceSettings) -> Array:
    """f32 like h: 1 where the divergence's exponential is held at MAX_EXPONENT, so that nothing pulls there."""
    rate = {"forward_kl": 1.0, "alpha": s.alpha}.get(s.divergence, 0.0)
    return (-rate * h > MAX_EXPONENT).astype(jnp.float32)


def swapped(pair: PairLogps) -> PairLogps:
    """The comparison with the other label. Not for KTO, whose alternatives are no pair."""
    flip = {name: getattr(pair, name)[:, ::-1] for name in ("logps", "ratios", "lengths")}
    return pair._replace(**flip, partner=None if pair.partner is None else -pair.partner)


def rewards(loss: str, pair: PairLogps, s: PreferenceSettings) -> Array:
    """f32[B, 2]: β times the log-ratio (or what stands for it), a token where the loss takes it so. For metrics."""
    return s.beta * (_per_token(pair.ratios, pair) if loss in NORMALISED else pair.ratios)


def matched(policy: Array, reference: Array, present: Array) -> Array:
    """AOT's partners f32[B]: the reference's log-ratio whose rank in the batch is that of the policy's log-ratio.

    Ranks are among the rows that are present; an absent row gets 0. Needs the global batch: no objective calls it.
    """
    last = jnp.where(present > 0, 0.0, jnp.inf)
    rank = jnp.argsort(jnp.argsort(policy + last))
    return jnp.where(present > 0, jnp.sort(reference + last)[rank], 0.0)


def kl_shift(ratios: Array, present: Array) -> Array:
    """KTO's z₀ = max(0, mean of h over mismatched completions), f32[], as a constant. Needs the global batch."""
    mean = jnp.where(present > 0, ratios, 0.0).sum() / jnp.maximum(present.sum(), 1.0)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))


def pairs(rank: Array) -> Array:
    """f32[B, N, N]: 1/#pairs where i ranks above j. rank i32[B, N], 0 best, -1 absent; ties are no pairs."""
    here = rank >= 0
    above = (rank[:, :, None] < rank[:, None, :]) & here[:, :, None] & here[:, None, :]
    return above / jnp.maximum(above.sum((1, 2), keepdims=True), 1.0)


def _gaps(scores: Array, prefer: Array, margin: Array) -> Array:
    """s_i − s_j − margin, f32[B, N, N], 0 where the pair has no weight, so that absent alternatives never enter."""
    gap = scores[:, :, None] - scores[:, None, :] - margin[:, None, None]
    return jnp.where(prefer > 0, gap, 0.0)


def bradley_terry(scores: Array, prefer: Array, margin: Array) -> Array:
    """f32[B]: −Σ_ij p_ij log σ(s_i − s_j − margin), scores f32[B, N], prefer f32[B, N, N], margin f32[B].

    Equation 1 of arXiv:2203.02155 where the C(K, 2) pairs of a ranking weigh 1/C(K, 2) each; the margin is Llama 2's
    (arXiv:2307.09288).
    """
    return -(prefer * log_sigmoid(_gaps(scores, prefer, margin))).sum((1, 2))


def score_hinge(scores: Array, prefer: Array, margin: Array) -> Array:
    """f32[B]: Σ_ij p_ij max(0, s_j − s_i + margin), shapes as in `bradley_terry`."""
    return (prefer * jnp.maximum(0.0, -_gaps(scores, prefer, margin))).sum((1, 2))


def plackett_luce(scores: Array, rank: Array) -> Array:
    """f32[B]: −Σ_i [s_i − log Σ_{j: rank_j ≥ rank_i} e^{s_j}] over the alternatives that are there.

    scores f32[B, N]; rank i32[B, N], 0 best, -1 absent. Equal ranks share the sum of their group (Breslow's ties).
    """
    here = rank >= 0
    # A row without alternatives keeps its diagonal: the gradient of a logsumexp of nothing is not a number.
    below = ((rank[:, None, :] >= rank[:, :, None]) & here[:, None, :]) | jnp.eye(rank.shape[1], dtype=bool)
    scores = jnp.where(here, scores, 0.0)
    rest = jax.nn.logsumexp(jnp.broadcast_to(scores[:, None, :], below.shape), axis=-1, where=below)
    return jnp.where(here, rest - scores, 0.0).sum(-1)


def centering(scores: Array, prefer: Array) -> Array:
    """f32[B]: Σ_ij p_ij (s_i + s_j)², which keeps scores near 0: arXiv:2312.09244. Shapes as in `bradley_terry`."""
    total = jnp.where(prefer > 0, scores[:, :, None] + scores[:, None, :], 0.0)
    return (prefer * total**2).sum((1, 2))
