"""Against the formulas in float64, their gradients against differences, and what must be true of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.ops import policy_gradient as pg
from jaxtrain.ops.policy_gradient import PolicyGradientSettings, check
from jaxtrain.ops.returns import kl_estimate

LOW, HIGH = 0.2, 0.28
RNG = np.random.default_rng(1)
MASK = np.array([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], "f")
OLD = RNG.normal(-3, 1, MASK.shape) * MASK
# Ratios on both sides of both bounds, none of them near one; likewise the mean of each row.
GAP = np.array([[0, 0.9, -0.8, 1.0, 0], [0.05, -0.9, 0, 0, 0], [0, 0, 0, 0, 0]])
ADVANTAGES = np.array([[0, 1.5, 0.7, 1.1, 0], [-1.0, -0.4, 0, 0, 0], [0, 0, 0, 0, 0]])


def exact_ratio(logps, level):
    gap = logps - OLD
    if level == "token":
        return np.exp(gap)
    out = np.ones_like(gap)
    for row in range(len(gap)):
        if MASK[row].any():
            out[row] = np.exp(gap[row][MASK[row] > 0].mean())
    return out


def exact_loss(logps, at, surrogate, level):
    """Σ over the mask, f64; `at` is where a constant weight is taken."""
    r, held = exact_ratio(logps, level), exact_ratio(at, level)
    out = {
        "clip": -np.minimum(ADVANTAGES * r, ADVANTAGES * np.clip(r, 1 - LOW, 1 + HIGH)),
        "cispo": -np.minimum(held, 1 + HIGH) * ADVANTAGES * logps,
        "none": -ADVANTAGES * r,
    }
    return (out[surrogate] * MASK).sum()


@pytest.mark.parametrize("level", pg.LEVELS)
@pytest.mark.parametrize("surrogate", pg.SURROGATES)
def test_surrogates_and_their_gradients(surrogate, level):
    start = OLD + GAP

    def total(logps):
        r = pg.ratio(logps, jnp.asarray(OLD, jnp.float32), MASK, level)
        losses, clipped = pg.SURROGATES[surrogate](r, logps, jnp.asarray(ADVANTAGES, jnp.float32), LOW, HIGH)
        return (losses * MASK).sum(), clipped

    (value, clipped), grad = jax.value_and_grad(total, has_aux=True)(jnp.asarray(start, jnp.float32))
    assert float(value) == pytest.approx(exact_loss(start, start, surrogate, level), rel=1e-5)
    wanted = np.zeros_like(start)
    for place in np.argwhere(MASK > 0):
        d = np.zeros_like(start)
        d[tuple(place)] = 1e-6
        ends = [exact_loss(start + s * d, start, surrogate, level) for s in (1, -1)]
        wanted[tuple(place)] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(grad, wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(wanted[1]).max() > 0.1 or surrogate == "clip"
    r = exact_ratio(start, level)
    acts = {
        "clip": ((ADVANTAGES > 0) & (r > 1 + HIGH)) | ((ADVANTAGES < 0) & (r < 1 - LOW)),
        "cispo": r > 1 + HIGH,
        "none": np.zeros_like(MASK),
    }
    assert np.array_equal(np.asarray(clipped) * MASK, acts[surrogate] * MASK)


@pytest.mark.parametrize(
    "a, r, loss, slope, clipped",
    [
        (1.0, 1.0, -1.0, -1.0, 0),
        (1.0, 1.5, -1.28, 0.0, 1),
        (1.0, 0.5, -0.5, -1.0, 0),  # worse than before is never held back
        (-2.0, 1.5, 3.0, 2.0, 0),
        (-2.0, 0.5, 1.6, 0.0, 1),
        (0.0, 9.0, 0.0, 0.0, 0),
    ],
)
def test_the_clip_by_hand(a, r, loss, slope, clipped):
    def f(x):
        return pg.clipped_ratio(x, jnp.zeros(()), jnp.float32(a), LOW, HIGH)

    found, flag = f(jnp.float32(r))
    assert (float(found), float(flag)) == (pytest.approx(loss), clipped)
    assert float(jax.grad(lambda x: f(x)[0])(jnp.float32(r))) == pytest.approx(slope, abs=1e-7)


def test_at_the_old_policy_every_surrogate_has_the_gradient_of_reinforce():
    """−A ∇ log π at each token, and with the ratio of the sequence −(mean A) ∇ log π."""
    old, a = jnp.asarray(OLD, jnp.float32), jnp.asarray(ADVANTAGES, jnp.float32)
    for level in pg.LEVELS:
        for name, surrogate in pg.SURROGATES.items():

            def total(x, level=level, surrogate=surrogate):
                return (surrogate(pg.ratio(x, old, MASK, level), x, a, LOW, HIGH)[0] * MASK).sum()

            by_row = ADVANTAGES.sum(1, keepdims=True) / np.maximum(MASK.sum(1, keepdims=True), 1) * MASK
            wanted = -by_row if level == "sequence" and name != "cispo" else -ADVANTAGES
            np.testing.assert_allclose(jax.grad(total)(old), wanted, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "v, old, back, clip, loss, slope, clipped",
    [
        (1.0, 1.0, 3.0, 0.2, 2.0, -2.0, 0),
        (1.1, 1.0, 3.0, 0.2, 0.5 * 1.9**2, -1.9, 0),
        (2.0, 1.0, 3.0, 0.2, 0.5 * 1.8**2, 0.0, 1),  # nearer by more than the clip counts as the clip
        (0.0, 1.0, 3.0, 0.2, 4.5, -3.0, 0),  # away from the return is never held back
        (2.0, 1.0, 3.0, 0.0, 0.5, -1.0, 0),
    ],
)
def test_the_value_loss_by_hand(v, old, back, clip, loss, slope, clipped):
    def f(x):
        return pg.value_loss(x, jnp.float32(old), jnp.float32(back), clip)

    found, flag = f(jnp.float32(v))
    assert (float(found), float(flag)) == (pytest.approx(loss), clipped)
    assert float(jax.grad(lambda x: f(x)[0])(jnp.float32(v))) == pytest.approx(slope, abs=1e-6)


def test_weights_of_tokens_add_up_to_what_the_units_say():
    weights, units = pg.token_weights(MASK, "token", 0)
    assert np.array_equal(weights, MASK) and float(units) == 5
    weights, units = pg.token_weights(MASK, "sequence", 0)
    np.testing.assert_allclose(np.asarray(weights).sum(1), [1, 1, 0], rtol=1e-6)
    assert float(units) == 2
    weights, units = pg.token_weights(MASK, "fixed", 10)
    np.testing.assert_allclose(np.asarray(weights).sum(1), [0.3, 0.2, 0], rtol=1e-6)
    assert float(units) == 2


# A policy of one token among six, the one that sampled, and a reference.
LOGITS, BEFORE, REF = RNG.normal(size=(3, 6))


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def of_kl(logits, ref):
    """∇_logits KL(π ‖ ref) = π (d − Σ π d), d = log π − log ref, f64[V]."""
    p = np.exp(log_softmax(logits))
    d = log_softmax(logits) - log_softmax(ref)
    return p * (d - (p * d).sum())


@pytest.mark.parametrize("before", [LOGITS, BEFORE], ids=["sampled by itself", "sampled by another"])
@pytest.mark.parametrize("kind", pg.LOSS_KLS)
def test_the_loss_has_the_gradient_of_the_kl(kind, before):
    """In expectation over the tokens of the policy that sampled, whoever that was."""
    old, ref = (jnp.asarray(log_softmax(x), jnp.float32) for x in (before, REF))

    def mean(logits):
        return (jnp.exp(old) * pg.kl_loss(jax.nn.log_softmax(logits), old, ref, kind)).sum()

    found = jax.grad(mean)(jnp.asarray(LOGITS, jnp.float32))
    np.testing.assert_allclose(found, of_kl(LOGITS, REF), atol=1e-6)
    assert np.abs(of_kl(LOGITS, REF)).max() > 0.1


def test_k1_in_a_loss_has_no_gradient_on_average_and_is_refused():
    old, ref = (jnp.asarray(log_softmax(x), jnp.float32) for x in (LOGITS, REF))

    def mean(logits):
        return (jnp.exp(old) * kl_estimate(jax.nn.log_softmax(logits), ref, "k1")).sum()

    np.testing.assert_allclose(jax.grad(mean)(jnp.asarray(LOGITS, jnp.float32)), 0, atol=1e-6)
    for weight in (0.0, 0.1):
        with pytest.raises(ValueError, match=r"kl=k1: .* use k2 or k3"):
            check(PolicyGradientSettings(kl="k1", kl_weight=weight))


LEGAL = [
    {},
    {"surrogate": "cispo", "clip_high": 4.0},
    {"surrogate": "none"},
    {"level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    {"aggregate": "fixed", "limit": 64},
    {"kl_weight": 0.1, "kl": "k2"},
    {"value_clip": 0.0},
    {"value_weight": 0.0},
]
REFUSED = [
    ({"surrogate": "ppo"}, "surrogate=ppo: choose one of clip, cispo, none"),
    ({"level": "row"}, "level=row: choose one of token, sequence"),
    ({"aggregate": "mean"}, "aggregate=mean: choose one of token, sequence, fixed"),
    ({"kl": "k4"}, "kl=k4: choose one of k2, k3"),
    ({"surrogate": "cispo", "clip_low": 0.1}, "clip_low=0.1 does nothing here; leave it at 0.2"),
    ({"surrogate": "none", "clip_high": 0.3}, "clip_high=0.3 does nothing"),
    ({"limit": 64}, "limit=64 does nothing here; leave it at 0"),
    ({"kl": "k2"}, "kl=k2 does nothing"),
    ({"value_weight": 0.0, "value_clip": 0.1}, "value_clip=0.1 does nothing"),
    ({"aggregate": "fixed"}, "limit=0: must be above 0"),
    ({"clip_low": 0.0}, "clip_low=0.0: must be above 0"),
    ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
    ({"kl_weight": -0.1}, "kl_weight=-0.1: must be at least 0"),
    ({"ptx_weight": -1.0}, "ptx_weight=-1.0: must be at least 0"),
]


@pytest.mark.parametrize("changes", LEGAL, ids=str)
def test_what_is_legal(changes):
    check(PolicyGradientSettings(**changes))


@pytest.mark.parametrize("changes, message", REFUSED, ids=str)
def test_what_would_do_nothing_or_is_not_legal_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check(PolicyGradientSettings(**changes))


@pytest.mark.parametrize("changes", [{"value_weight": 0.5}, {"value_clip": 0.1}], ids=str)
def test_values_that_are_not_trained_have_no_settings(changes):
    check(PolicyGradientSettings(**changes))
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.* does nothing here"):
        check(PolicyGradientSettings(**changes), critic=False)
