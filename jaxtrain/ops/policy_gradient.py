"""Losses of a policy on completions that an older policy sampled, and of the values that judge them, by token."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.ops.returns import kl_estimate

LEVELS = ("token", "sequence")
AGGREGATES = ("token", "sequence", "fixed")
LOSS_KLS = ("k2", "k3")


class PolicyGradientSettings(NamedTuple):
    """Settings of objectives.policy_gradient and objectives.ppo; `check` says which are legal."""

    clip_low: float = 0.2  # the ratio is clipped at 1 − clip_low
    clip_high: float = 0.2  # and at 1 + clip_high; DAPO's is higher than clip_low
    surrogate: str = "clip"  # a name of SURROGATES
    level: str = "token"  # whose ratio it is, see `ratio`
    aggregate: str = "token"  # what the loss is a mean over, see `token_weights`
    limit: int = 0  # "fixed": the tokens that each completion's sum is divided by
    kl_weight: float = 0.0  # of the KL to the reference, in the loss
    kl: str = "k3"  # its estimate, see `kl_loss`
    entropy_weight: float = 0.0  # bonus a nat of entropy; below 0 a price
    temperature: float = 1.0  # divides the logits in all log-probabilities, as it does in sampling
    value_weight: float = 0.1  # of the value loss
    value_clip: float = 0.2  # values move by this much without the clip; 0 does not clip
    ptx_weight: float = 0.0  # of the pretraining loss (PPO-ptx)
    entropy: bool = True  # report the entropy even without a bonus


def check(s: PolicyGradientSettings, *, critic: bool = True) -> None:
    """Raises ValueError on what is not legal or would do nothing; without `critic` no values are trained."""
    choices = {"surrogate": SURROGATES, "level": LEVELS, "aggregate": AGGREGATES, "kl": LOSS_KLS}
    if s.kl == "k1":
        raise ValueError("kl=k1: the gradient of k1 in a loss is zero on average; use k2 or k3")
    for name, known in choices.items():
        if getattr(s, name) not in known:
            raise ValueError(f"{name}={getattr(s, name)}: choose one of {', '.join(known)}")
    idle = {
        "clip_low": s.surrogate != "clip",
        "clip_high": s.surrogate == "none",
        "limit": s.aggregate != "fixed",
        "kl": not s.kl_weight,
        "value_weight": not critic,
        "value_clip": not critic or not s.value_weight,
    }
    for name, off in idle.items():
        value, alone = getattr(s, name), PolicyGradientSettings._field_defaults[name]
        if off and value != alone:
            raise ValueError(f"{name}={value} does nothing here; leave it at {alone}")
    above = ("clip_low", "clip_high", "temperature", *(("limit",) if s.aggregate == "fixed" else ()))
    for name in above:
        if getattr(s, name) <= 0:
            raise ValueError(f"{name}={getattr(s, name)}: must be above 0")
    for name in ("kl_weight", "value_weight", "value_clip", "ptx_weight"):
        if getattr(s, name) < 0:
            raise ValueError(f"{name}={getattr(s, name)}: must be at least 0")


def ratio(logps: Array, old: Array, mask: Array, level: str) -> Array:
    """f32[B, T]: e^(log π(y_t) − log π_old(y_t)); at level "sequence" e^(the mean over the row's tokens).

    The second is GSPO's length-normalised ratio, equation 7 of arXiv:2507.18071; its gradient goes through all tokens
    of the row. logps, old f32[B, T] are 0 where mask f32[B, T] is 0.
    """
    gap = logps - old
    if level == "sequence":
        mean = (gap * mask).sum(1, keepdims=True) / jnp.maximum(mask.sum(1, keepdims=True), 1.0)
        gap = jnp.broadcast_to(mean, gap.shape)
    return jnp.exp(gap)


def clipped_ratio(r: Array, logps: Array, advantages: Array, low: float, high: float) -> tuple[Array, Array]:
    """max(−A r, −A clip(r, 1 − low, 1 + high)); clipped where the second is larger.

    PPO, equation 7 of arXiv:1707.06347; with high above low DAPO's, arXiv:2503.14476.
    """
    free, clipped = -advantages * r, -advantages * jnp.clip(r, 1.0 - low, 1.0 + high)
    return jnp.maximum(free, clipped), (clipped > free).astype(jnp.float32)


def clipped_weight(r: Array, logps: Array, advantages: Array, low: float, high: float) -> tuple[Array, Array]:
    """−sg(min(r, 1 + high)) A log π; clipped where r is above. CISPO, equations 4 and 5 of arXiv:2506.13585.

    Every token keeps its gradient, and there is no bound below.
    """
    weight = jax.lax.stop_gradient(jnp.minimum(r, 1.0 + high))
    return -weight * advantages * logps, (r > 1.0 + high).astype(jnp.float32)


def plain_ratio(r: Array, logps: Array, advantages: Array, low: float, high: float) -> tuple[Array, Array]:
    """−A r, nothing clipped: REINFORCE with importance weights, which are 1 at the old policy."""
    return -advantages * r, jnp.zeros_like(r)


# (ratio, logps, advantages f32[B, T], low, high) -> (loss, 1 where the clip acts), f32[B, T] each.
SURROGATES: Mapping[str, Callable[[Array, Array, Array, float, float], tuple[Array, Array]]] = {
    "clip": clipped_ratio,
    "cispo": clipped_weight,
    "none": plain_ratio,
}


def kl_loss(logps: Array, old: Array, reference: Array, kind: str) -> Array:
    """f32[B, T] whose mean over tokens from π_old has the gradient of KL(π ‖ ref): with ρ = π/π_old of the token,

    k2: sg(ρ) · k2; k3: ρ · k3, both factors differentiated. The estimates are those of ops.returns.kl_estimate. GRPO's
    own term (equation 4 of arXiv:2402.03300) is k3 without ρ, whose gradient is that of KL(ref ‖ π) at π = π_old.
    """
    importance = jnp.exp(logps - old)
    if kind == "k2":
        importance = jax.lax.stop_gradient(importance)
    return importance * kl_estimate(logps, reference, kind)


def value_loss(values: Array, old_values: Array, returns: Array, clip: float) -> tuple[Array, Array]:
    """½ max((V − R)², (clip(V, V_old ± c) − R)²), and 1 where the second is larger; c = 0 is ½ (V − R)². f32[B, T].

    The clip is that of PPO's public code, detail 9 of the 37 of Huang et al. 2022; it is in no paper's equation.
    """
    free = (values - returns) ** 2
    if not clip:
        return 0.5 * free, jnp.zeros_like(free)
    clipped = (jnp.clip(values, old_values - clip, old_values + clip) - returns) ** 2
    return 0.5 * jnp.maximum(free, clipped), (clipped > free).astype(jnp.float32)


def token_weights(mask: Array, aggregate: str, limit: int) -> tuple[Array, Array]:
    """(weights f32[B, T], units f32[]): a loss is Σ weights · losses / Σ units, both sums over all rows.

    "token": mask, tokens (DAPO's, arXiv:2503.14476); "sequence": mask / the row's tokens, rows (GRPO's,
    arXiv:2402.03300); "fixed": mask / limit, rows (Dr. GRPO's, arXiv:2503.20783). Rows without tokens are no units.
    """
    tokens = mask.sum(1, keepdims=True)
    rows = (tokens > 0).sum().astype(jnp.float32)
    if aggregate == "sequence":
        return mask / jnp.maximum(tokens, 1.0), rows
    if aggregate == "fixed":
        return mask / limit, rows
    return mask, mask.sum()
