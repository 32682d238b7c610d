"""Against float64 NumPy formulas, and what must be true of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.ops import preference
from jaxtrain.ops.preference import (
    ACTS,
    COLUMNS,
    DIVERGENCES,
    LOSSES,
    NEEDS_REFERENCE,
    PairLogps,
    PreferenceSettings,
)

SETTINGS = PreferenceSettings(
    beta=0.3,
    label_smoothing=0.1,
    divergence="reverse_kl",
    alpha=0.5,
    reference_free=False,
    length_penalty=0.02,
    nll_weight=0.0,
    summed=False,
    gamma=0.4,
    tau=0.05,
    desirable_weight=1.5,
    undesirable_weight=0.7,
)
# The last two points are far from anything that training should reach.
LOGPS = np.array([[-4.0, -6.0], [-12.5, -3.0], [-0.7, -0.9], [-20.0, -20.0], [-1e3, -2.0], [-2.0, -1e3]])
RATIOS = np.array([[0.5, -1.0], [-3.0, 2.0], [0.1, 0.15], [0.0, 0.0], [-1e3, 1e3], [1e3, -1e3]])
LENGTHS = np.array([[4.0, 6.0], [5.0, 2.0], [1.0, 1.0], [9.0, 8.0], [3.0, 3.0], [3.0, 3.0]])
SHIFT = np.array([0.2, -0.1, 0.0, 0.3, 0.0, 0.0])
PARTNER = np.array([1.5, -4.0, 0.2, 0.0, 1.0, -1.0])
KL = np.array([0.0, 0.5, 0.2, 1.0, 0.1, 0.0])
LABEL = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
FAR = 2  # points at the end that are extreme


def make(logps=LOGPS, ratios=RATIOS, n=None):
    columns = (x[:n] for x in (logps, ratios, LENGTHS, SHIFT, PARTNER, KL, LABEL))
    return PairLogps(*(jnp.asarray(x, jnp.float32) for x in columns))


@functools.partial(jax.jit, static_argnames="summed")
def _every(pair, numbers, summed):
    s = SETTINGS._replace(**numbers, summed=summed)

    def one(link):
        def total(logps, ratios):
            values = link(pair._replace(logps=logps, ratios=ratios), s)
            return values.sum(), values

        grads, values = jax.grad(total, (0, 1), has_aux=True)(pair.logps, pair.ratios)
        return values, grads

    return {name: one(link) for name, link in LOSSES.items()}


def every(s, pair):
    """{loss: (values, gradients by logps and ratios)}, all in one program."""
    return _every(pair, {k: v for k, v in s._asdict().items() if isinstance(v, float)}, s.summed)


def nls(z):
    """−log σ(z)."""
    return np.logaddexp(0, -z)


def sig(z):
    return np.exp(-nls(z))


def exact(name, logps, ratios, s):
    """The formulas as the papers print them, f64[B]."""
    n = len(logps)
    h, lp, y, b, e = ratios, logps, LENGTHS[:n], s.beta, s.label_smoothing
    r = b * h
    gap = r[:, 0] - r[:, 1] + s.length_penalty * (y[:, 0] - y[:, 1])
    hbar, lbar = h / y, lp / y
    odds = lbar - np.log(-np.expm1(lbar))
    m = sig(gap / s.tau)
    z = r[:, 0] - b * KL[:n]

    def smooth(z):
        return (1 - e) * nls(z) + e * nls(-z)

    good, bad = s.desirable_weight * (1 - sig(z)), s.undesirable_weight * (1 - sig(-z))
    with np.errstate(all="ignore"):
        return {
            "sigmoid": lambda: smooth(gap),
            "hinge": lambda: np.maximum(0, 1 - gap),
            "ipo": lambda: ((h if s.summed else hbar) @ [1, -1] - 1 / (2 * b)) ** 2,
            "robust": lambda: ((1 - e) * nls(gap) - e * nls(-gap)) / (1 - 2 * e),
            "exo_pair": lambda: sig(gap) * (-nls(gap) - np.log(1 - e)) + sig(-gap) * (-nls(-gap) - np.log(e)),
            "nca_pair": lambda: nls(r[:, 0]) + 0.5 * nls(-r[:, 0]) + 0.5 * nls(-r[:, 1]),
            "bco_pair": lambda: nls(r[:, 0] - SHIFT[:n]) + nls(-(r[:, 1] - SHIFT[:n])),
            "sppo_hard": lambda: (h[:, 0] - 1 / (2 * b)) ** 2 + (h[:, 1] + 1 / (2 * b)) ** 2,
            "apo_zero": lambda: 1 - sig(r[:, 0]) + sig(r[:, 1]),
            "apo_down": lambda: sig(r[:, 0]) + 1 - sig(r[:, 0] - r[:, 1]),
            "aot": lambda: smooth(b * (lp[:, 0] - lp[:, 1] - PARTNER[:n])),
            "discopop": lambda: (1 - m) * nls(gap) + np.where(m > 0, m * np.exp(-gap), 0),
            "sigmoid_norm": lambda: smooth(b * (hbar @ [1, -1])),
            "simpo": lambda: smooth(b * (lbar @ [1, -1]) - s.gamma),
            "orpo": lambda: b * nls(odds @ [1, -1]),
            "cpo": lambda: smooth(b * (lp @ [1, -1])),
            "kto": lambda: np.where(LABEL[:n] > 0, good, bad),
        }[name]()


@pytest.mark.parametrize("s", [SETTINGS, SETTINGS._replace(summed=True, beta=1.3, label_smoothing=0.02)])
def test_values_and_gradients_of_every_link(s):
    found, near = every(s, make()), len(LOGPS) - FAR
    for name, (values, grads) in found.items():
        np.testing.assert_allclose(values, exact(name, LOGPS, RATIOS, s), rtol=2e-5, atol=1e-6, err_msg=name)
        for which, grad in enumerate(grads):
            for row, column in itertools.product(range(near), range(2)):
                step = np.zeros_like(LOGPS)
                step[row, column] = 1e-5
                ends = [
                    exact(name, LOGPS + (which == 0) * d, RATIOS + (which == 1) * d, s)[row]
                    for d in (step, -step)
                ]
                slope = (ends[0] - ends[1]) / 2e-5
                np.testing.assert_allclose(grad[row, column], slope, rtol=1e-3, atol=2e-5, err_msg=name)


def test_some_by_hand():
    # r = (.15, -.3), Δ = .45 - .02 · 2 = .41.
    found = {name: float(values[0]) for name, (values, _) in every(SETTINGS, make()).items()}
    np.testing.assert_allclose(found["hinge"], 0.59, rtol=1e-6)
    np.testing.assert_allclose(found["sigmoid"], np.log(1 + np.exp(-0.41)) + 0.1 * 0.41, rtol=1e-6)
    np.testing.assert_allclose(found["sppo_hard"], (0.5 - 5 / 3) ** 2 + (-1 + 5 / 3) ** 2, rtol=1e-6)
    np.testing.assert_allclose(found["ipo"], (0.125 + 1 / 6 - 5 / 3) ** 2, rtol=1e-6)
    np.testing.assert_allclose(found["kto"], 1.5 / (1 + np.exp(0.15)), rtol=1e-6)


def test_extremes_have_finite_values_and_gradients():
    for beta in (0.3, 5.0):
        for name, out in every(SETTINGS._replace(beta=beta), make()).items():
            assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(out)), name
    certain = make(logps=np.zeros((6, 2)), ratios=np.zeros((6, 2)))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(every(SETTINGS, certain)["orpo"]))


def test_each_setting_acts_where_it_is_said_to_and_nowhere_else():
    changes = {
        "beta": 0.8, "label_smoothing": 0.3, "length_penalty": 0.1, "summed": True, "gamma": 0.9, "tau": 0.5,
        "desirable_weight": 2.0, "undesirable_weight": 0.2,
    }  # fmt: skip
    before = every(SETTINGS, make())
    for setting, value in changes.items():
        after = every(SETTINGS._replace(**{setting: value}), make())
        acted = {name for name in LOSSES if not np.array_equal(before[name][0], after[name][0])}
        assert acted == {name for name in LOSSES if setting in ACTS[name]}, setting


def test_tables_name_the_losses():
    assert set(ACTS) == set(LOSSES) and set(COLUMNS) <= set(LOSSES) and set(LOSSES) >= NEEDS_REFERENCE
    assert all(acts <= set(PreferenceSettings._fields) for acts in ACTS.values())


PLAIN = SETTINGS._replace(label_smoothing=0.0, length_penalty=0.0)


@pytest.mark.parametrize(
    ("loss", "changes", "words"),
    [
        ("ippo", {}, "choose one of sigmoid"),
        ("hinge", {"label_smoothing": 0.1}, "label_smoothing=0.1 does nothing in loss=hinge"),
        ("ipo", {"divergence": "js"}, "divergence=js does nothing"),
        ("simpo", {"reference_free": True}, "reference_free=True does nothing"),
        ("kto", {"nll_weight": 1.0}, "nll_weight=1.0 does nothing"),
        ("sigmoid", {"summed": True}, "summed=True does nothing"),
        ("robust", {"label_smoothing": 0.5}, "below 0.5"),
        ("exo_pair", {}, "label_smoothing=0.0"),
        ("sigmoid", {"divergence": "kl"}, "choose one of reverse_kl"),
        ("sigmoid", {"divergence": "alpha", "alpha": 1.0}, "alpha=1.0"),
        ("sigmoid", {"beta": 0.0}, "beta=0.0"),
    ],
)
def test_settings_that_do_nothing_are_refused(loss, changes, words):
    with pytest.raises(ValueError, match=words):
        preference.check(loss, PLAIN._replace(**changes))


def test_settings_that_act_are_taken():
    for loss in LOSSES:
        preference.check(loss, PLAIN._replace(label_smoothing=0.1 if loss == "exo_pair" else 0.0))


def test_where_policy_and_reference_agree():
    same = make(ratios=np.zeros((6, 2)))
    partner = preference.difference(same.logps)
    same = same._replace(shift=jnp.zeros(6), kl=jnp.zeros(6), partner=partner)
    found = {name: float(values[0]) for name, (values, _) in every(PLAIN, same).items() if name != "exo_pair"}
    wanted = {
        **dict.fromkeys(("sigmoid", "robust", "aot", "sigmoid_norm"), np.log(2)),
        **dict.fromkeys(("nca_pair", "bco_pair"), 2 * np.log(2)),
        **dict.fromkeys(("hinge", "apo_zero", "apo_down"), 1.0),
        "ipo": 1 / (4 * 0.09),
        "sppo_hard": 2 / (4 * 0.09),
        "discopop": 0.5 * np.log(2) + 0.5,
        "kto": 0.75,
    }
    np.testing.assert_allclose([found[k] for k in wanted], list(wanted.values()), rtol=1e-6)


def test_robust_is_unbiased_and_exo_and_ipo_have_their_minima():
    pair, eps = make(n=4), 0.2
    s = SETTINGS._replace(label_smoothing=eps)
    noisy = (1 - eps) * preference.robust(pair, s) + eps * preference.robust(preference.swapped(pair), s)
    clean = preference.sigmoid_loss(pair, s._replace(label_smoothing=0.0))
    np.testing.assert_allclose(noisy, clean, rtol=1e-5)

    s = PLAIN._replace(label_smoothing=eps, beta=1.0)
    at = make(ratios=np.array([[np.log(4.0), 0.0]]), n=1)
    np.testing.assert_allclose(preference.exo_pair(at, s), 0.0, atol=1e-6)  # σ(log 4) = .8

    slope = jax.grad(lambda x: preference.ipo(at._replace(ratios=x, lengths=jnp.full((1, 2), 4.0)), PLAIN)[0])
    gap = 4 / (2 * PLAIN.beta)  # four tokens
    np.testing.assert_allclose(slope(jnp.array([[gap, 0.0]])), 0.0, atol=1e-6)
    assert slope(jnp.array([[gap - 1, 0.0]]))[0, 0] < 0 < slope(jnp.array([[gap + 1, 0.0]]))[0, 0]


def test_soft_labels_are_the_mean_over_the_label():
    pair, eps = make(n=4), jnp.array([0.0, 0.3, 0.5, 0.9])
    soft = preference.sigmoid_loss(pair, PLAIN._replace(label_smoothing=eps))
    sides = [preference.sigmoid_loss(x, PLAIN) for x in (pair, preference.swapped(pair))]
    np.testing.assert_allclose(soft, (1 - eps) * sides[0] + eps * sides[1], rtol=1e-6)


def test_aot_matches_ranks_and_one_pair_is_dpo():
    rng = np.random.default_rng(0)
    policy, reference = rng.normal(size=(2, 6)).astype("f")
    present = np.array([1, 1, 0, 1, 1, 0], "f")
    partner = np.asarray(preference.matched(policy, reference, present))
    here = present > 0
    found = np.sort((policy - partner)[here])
    np.testing.assert_allclose(found, np.sort(np.sort(policy[here]) - np.sort(reference[here])), rtol=1e-6)
    assert not partner[~here].any()

    pair = make(n=1)
    ref = pair.logps - pair.ratios
    alone = preference.matched(preference.difference(pair.logps), preference.difference(ref), jnp.ones(1))
    one = preference.aot(pair._replace(partner=alone), PLAIN)
    np.testing.assert_allclose(one, preference.sigmoid_loss(pair, PLAIN), rtol=1e-5)


def test_the_shift_of_kto_is_a_mean_that_is_never_negative():
    h, present = jnp.array([1.0, 2.0, 50.0]), jnp.array([1.0, 1.0, 0.0])
    assert float(preference.kl_shift(h, present)) == 1.5
    assert float(preference.kl_shift(-h, present)) == 0.0
    assert not jax.grad(lambda x: preference.kl_shift(x, present))(h).any()


def test_divergences_are_the_derivative_of_their_f():
    """f by finite differences in u, arXiv:2309.16240's table, less f'(1)."""
    a = 0.3
    f = {
        "reverse_kl": lambda u: u * np.log(u),
        "forward_kl": lambda u: -np.log(u),
        "js": lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2),
        "alpha": lambda u: (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1)),
    }
    assert set(f) == set(DIVERGENCES)
    u, d = np.array([0.2, 0.7, 1.0, 1.9, 6.0]), 1e-5
    for name, value in f.items():
        slope = (value(u + d) - value(u - d)) / (2 * d) - (value(1 + d) - value(1 - d)) / (2 * d)
        np.testing.assert_allclose(
            DIVERGENCES[name](jnp.log(u), a), slope, rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_divergences_beyond_f32_are_held_and_counted():
    h = jnp.array([-1e3, -41.0, -39.0, 0.0, 1e3])
    for name, count in (("reverse_kl", 0), ("forward_kl", 2), ("js", 0), ("alpha", 1)):
        value, slope = jax.vmap(jax.value_and_grad(lambda x, name=name: DIVERGENCES[name](x, 0.5)))(h)
        assert jnp.isfinite(value).all() and jnp.isfinite(slope**2).all(), name
        assert preference.capped(h, SETTINGS._replace(divergence=name)).sum() == count, name


# The tabular world: 8 prompts with 16 answers each, a reference, a reward, and labels that are exactly Bradley-Terry.
RNG = np.random.default_rng(3)
REF, REWARD = RNG.dirichlet(np.ones(16), 8), RNG.normal(size=(8, 16))
TOKENS = RNG.integers(1, 9, (8, 16)).astype(float)
FIRST, SECOND = np.triu_indices(16, 1)
FLIP = (1 / (1 + np.exp(REWARD[:, FIRST] - REWARD[:, SECOND]))).reshape(-1)


@functools.partial(jax.jit, static_argnames=("divergence",))
def trained(divergence, beta, length_penalty):
    """The table policy f32[8, 16] that DPO's real loss ends at, by gradient descent."""
    s = PLAIN._replace(
        beta=beta, length_penalty=length_penalty, divergence=divergence, label_smoothing=jnp.asarray(FLIP)
    )

    def both(table):
        return jnp.stack([table[:, FIRST], table[:, SECOND]], -1).reshape(-1, 2)

    lengths, ref = both(jnp.asarray(TOKENS)), both(jnp.log(jnp.asarray(REF)))
    tx = optax.adam(optax.cosine_decay_schedule(0.1, 1500))

    def loss(logits):
        logps = both(jax.nn.log_softmax(logits))
        ratios = DIVERGENCES[divergence](logps - ref, s.alpha)
        return preference.sigmoid_loss(PairLogps(logps, ratios, lengths, None, None, None, None), s).sum()

    def step(carry, _):
        logits, opt = carry
        updates, opt = tx.update(jax.grad(loss)(logits), opt)
        return (optax.apply_updates(logits, updates), opt), None

    start = jnp.log(jnp.asarray(REF))
    return jax.nn.softmax(jax.lax.scan(step, (start, tx.init(start)), length=1500)[0][0])


def optimum(ratio, beta, reward):
    """ref · (f')⁻¹((r − c)/β), with c from Σ π = 1 by bisection, f64[8, 16]."""
    low, high = reward.min(1, keepdims=True) - 50, reward.max(1, keepdims=True) + 50
    for _ in range(200):
        c = (low + high) / 2
        mass = (REF * ratio((reward - c) / beta)).sum(1, keepdims=True)
        low, high = np.where(mass > 1, c, low), np.where(mass > 1, high, c)
    return REF * ratio((reward - c) / beta)


def _or_infinite(x, legal):
    return np.where(legal, x, 1e9)


INVERSE = {
    "reverse_kl": np.exp,
    "forward_kl": lambda x: _or_infinite(1 / np.where(x < 1, 1 - x, 1), x < 1),
    "js": lambda x: _or_infinite(np.exp(x) / np.where(x < np.log(2), 2 - np.exp(x), 1), x < np.log(2)),
    "alpha": lambda x: _or_infinite(np.where(x < 2, 1 - x / 2, 1) ** -2, x < 2),
}


@pytest.mark.parametrize("divergence", INVERSE)
def test_the_optimum_of_a_table_is_the_regularised_optimum(divergence):
    beta = 1.0
    found, wanted = trained(divergence, beta, 0.0), optimum(INVERSE[divergence], beta, REWARD)
    assert 0.5 * np.abs(wanted - REF).sum(1).min() > 0.1
    assert 0.5 * np.abs(found - wanted).sum(1).max() < 0.02


def test_the_price_of_length_comes_off_the_reward():
    """R-DPO's optimum is ref · exp((r − α|y|)/β) / Z: a positive price makes answers shorter."""
    found = trained("reverse_kl", 0.5, 0.2)
    wanted = REF * np.exp((REWARD - 0.2 * TOKENS) / 0.5)
    wanted /= wanted.sum(1, keepdims=True)
    assert 0.5 * np.abs(found - wanted).sum(1).max() < 0.02


SCORES = np.array([[1.0, 0.5, -0.25, 7.0], [0.0, 2.0, 2.0, 1.0]])


def test_bradley_terry_and_hinge_by_hand():
    rank = np.array([[0, 1, 2, -1], [2, 0, 0, 1]])
    prefer = np.asarray(preference.pairs(rank))
    np.testing.assert_allclose(prefer.sum((1, 2)), 1.0, rtol=1e-6)
    assert (prefer > 0).sum((1, 2)).tolist() == [3, 5]  # the tie of row 1 is no pair
    margin = np.array([0.0, 0.5])
    gaps = [np.array([0.5, 1.25, 0.75]), np.array([2.0, 2.0, 1.0, 1.0, 1.0]) - 0.5]
    found = preference.bradley_terry(SCORES, prefer, margin)
    np.testing.assert_allclose(found, [nls(g).mean() for g in gaps], rtol=1e-6)
    found = preference.score_hinge(SCORES, prefer, np.array([1.0, 1.5]))
    np.testing.assert_allclose(found, [(0.5 + 0 + 0.25) / 3, 3 * 0.5 / 5], rtol=1e-6)
    soft = np.array([[[0, 0.7], [0.3, 0]]])
    found = preference.bradley_terry(np.array([[1.0, 0.0]]), soft, np.zeros(1))
    np.testing.assert_allclose(found, 0.7 * nls(1.0) + 0.3 * nls(-1.0), rtol=1e-6)
    np.testing.assert_allclose(preference.centering(np.array([[1.0, 3.0]]), soft), [16.0], rtol=1e-6)


def test_plackett_luce_is_a_distribution_over_rankings():
    ranks = np.array(list(itertools.permutations(range(4))))
    found = preference.plackett_luce(np.tile(SCORES[:1], (24, 1)), ranks)
    np.testing.assert_allclose(np.exp(-found).sum(), 1.0, rtol=1e-5)


def test_plackett_luce_with_ties_and_absent_alternatives():
    by_hand = {
        (0, 1, -1, -1): nls(0.5),
        (1, 0, -1, -1): nls(-0.5),
        (0, 0, 1, -1): 2 * np.log(np.exp([1, 0.5, -0.25]).sum()) - 1.5,  # each of the tied against all three
        (0, -1, 1, 1): np.log(np.exp([1, -0.25, 7]).sum()) - 1 + 2 * np.log(np.exp([-0.25, 7]).sum()) - 6.75,
        (-1, -1, -1, -1): 0.0,
    }
    ranks, scores = np.array(list(by_hand)), np.tile(SCORES[:1], (len(by_hand), 1))

    @jax.jit
    def f(x):
        return preference.plackett_luce(x, ranks)

    np.testing.assert_allclose(f(jnp.asarray(scores)), list(by_hand.values()), rtol=1e-5, atol=1e-6)
    grad = jax.jit(jax.grad(lambda x: f(x).sum()))(jnp.asarray(scores))
    assert jnp.isfinite(grad).all() and not grad[ranks < 0].any()
    np.testing.assert_array_equal(
        f(jnp.where(ranks < 0, jnp.nan, scores)), f(jnp.asarray(scores, jnp.float32))
    )


def test_scores_of_absent_alternatives_never_enter():
    prefer = np.asarray(preference.pairs(np.array([[0, 1, -1]])))
    scores = jnp.array([[1.0, 0.0, jnp.nan]])
    for f in (preference.bradley_terry, preference.score_hinge):
        value, grad = jax.jit(jax.value_and_grad(lambda x, f=f: f(x, prefer, jnp.full(1, 2.0)).sum()))(scores)
        assert jnp.isfinite(value) and jnp.isfinite(grad).all()
    assert jnp.isfinite(preference.centering(scores, prefer)).all()


@pytest.mark.parametrize("far", [1e3, -1e3])
def test_extreme_scores_have_finite_gradients(far):
    scores, one = jnp.array([[far, 0.0]]), jnp.zeros(1)
    prefer, rank = jnp.array([[[0.0, 1.0], [0.0, 0.0]]]), jnp.array([[0, 1]])
    for f in (
        lambda x: preference.bradley_terry(x, prefer, one),
        lambda x: preference.plackett_luce(x, rank),
        lambda x: preference.score_hinge(x, prefer, one),
    ):
        value, grad = jax.jit(jax.value_and_grad(lambda x, f=f: f(x).sum()))(scores)
        np.testing.assert_allclose(value, max(0.0, -far), atol=1e-6)
        np.testing.assert_allclose(grad, [[-1.0, 1.0] if far < 0 else [0.0, 0.0]], atol=1e-6)
