"""From scores of whole completions to rewards, advantages and returns of their tokens.

Masks are f32[B, T], 1 on completion tokens with the end token, wherever in their rows these stand. What stands where
the mask is 0 never enters, not-a-numbers included, and what comes out there is 0.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

# Added to the variance that whitening divides by the root of.
WHITEN_EPS = 1e-8
# Added to the standard deviation that the scores of a group are divided by.
GROUP_EPS = 1e-4

# Of log-ratios d = log π − log ref at tokens drawn from π: each has mean KL(π ‖ ref), or near it (k2). J. Schulman,
# "Approximating KL Divergence", 2020.
KL_ESTIMATES: Mapping[str, Callable[[Array], Array]] = {
    "k1": lambda d: d,
    "k2": lambda d: 0.5 * d**2,
    "k3": lambda d: jnp.expm1(-d) + d,
}


def kl_estimate(logps: Array, reference: Array, kind: str) -> Array:
    """Estimates of KL(π ‖ ref) from tokens y ~ π, like logps f32[...]: with d = log π(y) − log ref(y),

    k1 = d, without bias; k2 = d²/2, whose gradient is that of the KL; k3 = e^(−d) − 1 + d, without bias and never
    negative.
    """
    return KL_ESTIMATES[kind](logps - reference)


def token_rewards(
    logps: Array, reference: Array, mask: Array, scores: Array, kl_coef: float | Array
) -> Array:
    """R_t = −β (log π(y_t) − log ref(y_t)) + [t is the row's last token] · score, f32[B, T].

    Equation 2 of arXiv:2203.02155 by token. logps, reference, mask f32[B, T], scores f32[B], kl_coef β. A row without
    tokens gets nothing, its score neither.
    """
    here = mask > 0
    last = here & (jnp.cumsum(here[:, ::-1], 1)[:, ::-1] == 1)
    kl = jnp.where(here, kl_estimate(logps, reference, "k1"), 0.0)
    return -kl_coef * kl + jnp.where(last, scores.astype(jnp.float32)[:, None], 0.0)


def gae(
    rewards: Array, values: Array, mask: Array, *, gamma: float, lam: float, bootstrap: Array | None = None
) -> tuple[Array, Array]:
    """(advantages, returns) f32[B, T]: A_t = δ_t + γλ A_{t+1}, δ_t = R_t + γ V_{t+1} − V_t; returns = A + V.

    Equation 16 of arXiv:1506.02438. values f32[B, T] at t is the value of the state before target t. V after the last
    token is 0, or bootstrap f32[B] where a completion was cut off and goes on. Advantages are not whitened, so that
    returns are returns. t + 1 is the row's next token in the mask, however far it is.
    """
    here = mask > 0
    rewards, values = (jnp.where(here, x.astype(jnp.float32), 0.0) for x in (rewards, values))
    none = jnp.zeros(len(mask), jnp.float32)
    end = none if bootstrap is None else bootstrap.astype(jnp.float32)

    def back(
        after: tuple[Array, Array], now: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        value, advantage = after
        r, v, m = now
        a = r + gamma * value - v + gamma * lam * advantage
        return (jnp.where(m, v, value), jnp.where(m, a, advantage)), jnp.where(m, a, 0.0)

    _, reversed_gae = jax.lax.scan(back, (end, none), (rewards.T, values.T, here.T), reverse=True)
    advantages = reversed_gae.T
    return advantages, advantages + values


def whiten(x: Array, mask: Array, *, shift: bool = True) -> Array:
    """(x − mean) / √(var + 1e-8), + mean without `shift`; mean and population variance over all of the mask.

    x, mask f32[B, T]. It needs the global batch: no objective calls it.
    """
    mean, var = _moments(x, mask)
    out = (x - mean) * jax.lax.rsqrt(var + WHITEN_EPS)
    return jnp.where(mask > 0, out if shift else out + mean, 0.0)


def group_advantages(
    scores: Array, group: int, *, baseline: str = "mean", scale: str = "std"
) -> tuple[Array, Array]:
    """(advantages, flat) f32[B] of scores f32[B], of which rows i·G to i·G + G − 1 are samples of one prompt.

    A = r − baseline, the group's "mean" or that of the "others", r − mean_{j≠i} r_j = G/(G−1) (r − mean); over its
    scale + 1e-4: the group's Bessel-corrected "std", or "population" std, the root mean square of r − baseline over
    the "batch", or "none".

    GRPO is mean, std (arXiv:2402.03300, section 4.1.2); RLOO others, none (arXiv:2402.14740); Dr. GRPO mean, none
    (arXiv:2503.20783); REINFORCE++-baseline mean, batch (arXiv:2501.03262). `flat` is 1 where all scores of the group
    are equal; the advantage is 0 there. A score of NaN is none: it is left out of means and scales, and its advantage
    is 0. Raises ValueError on a group of one, whose advantage is always 0, or that does not divide B, and on an
    unknown name.
    """
    if baseline not in BASELINES or scale not in SCALES:
        raise ValueError(
            f"baseline={baseline}, scale={scale}: choose of {', '.join(BASELINES)} and of {', '.join(SCALES)}"
        )
    if group < 2:
        raise ValueError(f"group={group}: a sample is compared with others of its prompt, so use at least 2")
    if scores.shape[0] % group:
        raise ValueError(f"{scores.shape[0]} scores are not whole groups of {group}")
    r = scores.astype(jnp.float32).reshape(-1, group)
    here = ~jnp.isnan(r)
    G = here.sum(1, keepdims=True).astype(jnp.float32)
    high, low = jnp.where(here, r, -jnp.inf), jnp.where(here, r, jnp.inf)
    flat = jnp.broadcast_to(high.max(1, keepdims=True) <= low.min(1, keepdims=True), r.shape)
    # The mean of equal numbers need not be that number in f32.
    mean = jnp.where(here, r, 0.0).sum(1, keepdims=True) / jnp.maximum(G, 1.0)
    centred = jnp.where(flat | ~here, 0.0, r - mean)
    out = BASELINES[baseline](centred, G)
    if scale != "none":
        out = out / (SCALES[scale](out, centred, G) + GROUP_EPS)
    return out.reshape(-1), flat.astype(jnp.float32).reshape(-1)


# (r − the group's mean f32[B / G, G], the number of its scores f32[B / G, 1]) -> r − baseline.
BASELINES: Mapping[str, Callable[[Array, Array], Array]] = {
    "mean": lambda centred, G: centred,
    "others": lambda centred, G: centred * (G / jnp.maximum(G - 1.0, 1.0)),
}
# (r − baseline, r − the group's mean, the number of its scores) -> what it is divided by, f32[B / G, 1] or f32[].
SCALES: Mapping[str, Callable[[Array, Array, Array], Array]] = {
    "std": lambda out, centred, G: jnp.sqrt((centred**2).sum(1, keepdims=True) / jnp.maximum(G - 1.0, 1.0)),
    "population": lambda out, centred, G: jnp.sqrt((centred**2).sum(1, keepdims=True) / jnp.maximum(G, 1.0)),
    "batch": lambda out, centred, G: jnp.sqrt((out**2).sum() / jnp.maximum(G.sum(), 1.0)),
    "none": lambda out, centred, G: jnp.ones(()),
}


def adaptive_kl(
    coef: float | Array, kl: float | Array, *, target: float, horizon: float, episodes: float
) -> Array:
    """β · (1 + clip(KL / target − 1, −0.2, 0.2) · episodes / horizon), f32[]: the KL coefficient of the next update.

    Section 2.2 of arXiv:1909.08593, whose gain is here episodes / horizon, as in its code. kl in nats a completion,
    target likewise, horizon in episodes.
    """
    error = jnp.clip(jnp.asarray(kl, jnp.float32) / target - 1.0, -0.2, 0.2)
    return coef * (1.0 + error * episodes / horizon)


def overlong_penalty(lengths: Array, *, most: int, buffer: int) -> Array:
    """f32[B]: 0 up to most − buffer tokens, then (most − buffer − length) / buffer, −1 from `most` on.

    DAPO's soft overlong punishment, equation 13 of arXiv:2503.14476. lengths i32[B]. Raises ValueError unless
    0 < buffer ≤ most.
    """
    if not 0 < buffer <= most:
        raise ValueError(f"buffer={buffer}: must lie above 0 and not above most={most}")
    return jnp.clip((most - buffer - lengths.astype(jnp.float32)) / buffer, -1.0, 0.0)


def explained_variance(returns: Array, values: Array, mask: Array) -> Array:
    """1 − Var(returns − values) / Var(returns) over the mask, f32[]; 0 where the returns do not vary."""
    _, left = _moments(returns - values, mask)
    _, whole = _moments(returns, mask)
    return jnp.where(whole > 0, 1.0 - left / jnp.where(whole > 0, whole, 1.0), 0.0)


def _moments(x: Array, mask: Array) -> tuple[Array, Array]:
    """Mean and population variance over the mask, f32[] each."""
    here, count = mask > 0, jnp.maximum((mask > 0).sum(), 1)
    mean = jnp.where(here, x, 0.0).sum() / count
    return mean, jnp.where(here, (x - mean) ** 2, 0.0).sum() / count
