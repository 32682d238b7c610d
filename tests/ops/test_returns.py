"""Against loops written from the formulas, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.ops import returns

RNG = np.random.default_rng(0)
# Completions begin anywhere; one has a gap, one is a single token, one row has none.
MASK = np.array(
    [
        [0, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ],
    "f",
)
HERE = MASK > 0
B, T = MASK.shape
LOGPS, REFERENCE, REWARDS, VALUES = RNG.normal(size=(4, B, T)).astype("f")
SCORES = np.array([0.7, -1.8, 2.0, -0.25, np.nan], "f")  # a row without tokens has no score


def dirty(x):
    """What stands outside the mask is anything."""
    return jnp.asarray(np.where(HERE, x, np.nan))


def exact(rewards, values, gamma, lam, end):
    """Equation 16 of arXiv:1506.02438 as the double sum it is, f64[B, T]."""
    out = np.zeros((B, T))
    for b in range(B):
        places = np.flatnonzero(HERE[b])
        r, v = rewards[b, places].astype(float), np.append(values[b, places].astype(float), end[b])
        for i, t in enumerate(places):
            for j in range(i, len(places)):
                out[b, t] += (gamma * lam) ** (j - i) * (r[j] + gamma * v[j + 1] - v[j])
    return out


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_gae_is_the_sum_of_discounted_errors(gamma, lam):
    end = RNG.normal(size=B).astype("f")
    for bootstrap in (None, end):
        found, back = returns.gae(
            dirty(REWARDS), dirty(VALUES), MASK, gamma=gamma, lam=lam, bootstrap=bootstrap
        )
        wanted = exact(REWARDS, VALUES, gamma, lam, np.zeros(B) if bootstrap is None else end)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(back, wanted + np.where(HERE, VALUES, 0), rtol=1e-5, atol=1e-6)
        assert not np.asarray(found)[~HERE].any() and not np.asarray(back)[~HERE].any()


def test_where_a_completion_stands_in_its_row_does_not_matter():
    row = np.array([[0.5, -1.0, 2.0]], "f")
    found = []
    for left in range(3):
        wide = np.pad(row, ((0, 0), (left, 2 - left)), constant_values=np.nan)
        mask = np.isfinite(wide).astype("f")
        advantages, _ = returns.gae(jnp.asarray(wide), jnp.asarray(-wide), mask, gamma=0.9, lam=0.8)
        found.append(np.asarray(advantages)[mask > 0])
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2]) and found[0].all()


def test_without_discount_the_returns_are_what_is_still_to_come():
    _, back = returns.gae(REWARDS, VALUES, MASK, gamma=1.0, lam=1.0)
    rest = np.cumsum((REWARDS * MASK)[:, ::-1], 1)[:, ::-1]
    np.testing.assert_allclose(back, rest * MASK, rtol=1e-5, atol=1e-6)


def test_rewards_of_tokens_by_hand():
    found = np.asarray(returns.token_rewards(dirty(LOGPS), dirty(REFERENCE), MASK, jnp.asarray(SCORES), 0.3))
    wanted = np.where(HERE, -0.3 * (LOGPS.astype(float) - REFERENCE), 0.0)
    for b, last in ((0, 4), (1, 7), (2, 6), (3, 7)):
        wanted[b, last] += SCORES[b]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_score_is_no_integer_whatever_the_mask_is():
    """Scores of 0.7 and -1.8 became 0 and -1 where the buffer of rewards was made like the token ids."""
    zeros = np.zeros((B, T), "f")
    for kind in (np.float32, np.int32, bool):
        found = returns.token_rewards(zeros, zeros, MASK.astype(kind), jnp.asarray(SCORES), 0.0)
        assert found.dtype == np.float32
        assert np.array_equal(np.asarray(found).sum(1)[:4], SCORES[:4])


def test_the_kl_of_a_completion_does_not_count_padding():
    """20 tokens of 1.2 nats in a row of 53, whose other log-ratios are -1, were once reported as -9.0 nats."""
    mask = (np.arange(53) < 20).astype("f")[None]
    gap = np.where(mask > 0, 1.2, -1.0).astype("f")
    found = returns.token_rewards(gap, np.zeros_like(gap), mask, jnp.zeros(1), 1.0)
    assert float(-found.sum()) == pytest.approx(24.0, rel=1e-6)


@pytest.mark.parametrize("shift", [True, False])
def test_whitening_is_over_all_of_the_mask(shift):
    x = 3 + 2 * VALUES
    found = np.asarray(returns.whiten(dirty(x), MASK, shift=shift))
    inside = x[HERE].astype(float)
    wanted = (inside - inside.mean()) / np.sqrt(inside.var() + 1e-8) + (0 if shift else inside.mean())
    np.testing.assert_allclose(found[HERE], wanted, rtol=1e-5, atol=1e-5)
    assert not found[~HERE].any()
    assert not np.asarray(returns.whiten(dirty(np.full((B, T), 2.0)), MASK)).any()
    assert not np.asarray(returns.whiten(dirty(x), np.zeros((B, T)))).any()


R = np.array([1.0, 0.0, 0.0, 4.0, 0.1, 0.1, 0.1, 0.1, -3.0, 2.0, 2.0, 2.5])
G = 4


def in_groups(baseline, scale):
    groups, out = R.reshape(-1, G), []
    every = []
    for r in groups:
        others = [np.delete(r, i).mean() for i in range(G)]
        every.append(r - (r.mean() if baseline == "mean" else np.array(others)))
    for r, a in zip(groups, every, strict=True):
        by = {
            "std": np.std(r, ddof=1) + 1e-4,
            "population": np.std(r) + 1e-4,
            "batch": np.sqrt(np.mean(np.square(every))) + 1e-4,
            "none": 1.0,
        }
        out.append(a / by[scale])
    return np.concatenate(out)


@pytest.mark.parametrize("scale", returns.SCALES)
@pytest.mark.parametrize("baseline", returns.BASELINES)
def test_group_advantages_by_their_definitions(baseline, scale):
    found, flat = returns.group_advantages(jnp.asarray(R, jnp.float32), G, baseline=baseline, scale=scale)
    np.testing.assert_allclose(found, in_groups(baseline, scale), rtol=1e-5, atol=1e-5)
    assert np.asarray(flat).tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 4
    assert not np.asarray(found)[4:8].any()


def test_the_advantage_of_equal_scores_is_zero_even_where_their_mean_is_not_exact():
    r = jnp.full(7, 0.1)
    assert float(jnp.abs(r - r.mean()).max()) > 0
    for scale in returns.SCALES:
        found, flat = returns.group_advantages(r, 7, scale=scale)
        assert not np.asarray(found).any() and np.asarray(flat).all()


def test_rloo_is_the_scaled_difference_from_the_mean_and_shifts_do_not_matter():
    r = jnp.asarray(R, jnp.float32)
    others, _ = returns.group_advantages(r, G, baseline="others", scale="none")
    plain, _ = returns.group_advantages(r, G, scale="none")
    np.testing.assert_allclose(others, G / (G - 1) * np.asarray(plain), rtol=1e-6)
    moved, _ = returns.group_advantages(r + 8, G, baseline="others", scale="none")
    np.testing.assert_allclose(moved, others, atol=1e-5)
    np.testing.assert_allclose(np.asarray(others).reshape(-1, G).sum(1), 0, atol=1e-5)


def test_groups_that_are_none_are_refused():
    r = jnp.zeros(6)
    with pytest.raises(ValueError, match=r"group=1: .* at least 2"):
        returns.group_advantages(r, 1)
    with pytest.raises(ValueError, match="6 scores are not whole groups of 4"):
        returns.group_advantages(r, 4)
    for wrong in ({"baseline": "median"}, {"scale": "max"}):
        with pytest.raises(ValueError, match="choose of mean, others and of std, population, batch, none"):
            returns.group_advantages(r, 3, **wrong)


@pytest.mark.parametrize(
    "kl, wanted",
    [
        (6.0, 0.15),
        (6.6, 0.15 * (1 + 0.1 * 0.0512)),  # 10 % above the target
        (60.0, 0.15 * (1 + 0.2 * 0.0512)),
        (0.0, 0.15 * (1 - 0.2 * 0.0512)),
        (-5.0, 0.15 * (1 - 0.2 * 0.0512)),
    ],
)
def test_the_kl_coefficient_moves_by_the_clipped_error(kl, wanted):
    found = returns.adaptive_kl(jnp.float32(0.15), jnp.float32(kl), target=6.0, horizon=10_000, episodes=512)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_estimates_of_the_kl_have_its_mean():
    p = RNG.dirichlet(np.ones(6))
    q = p * np.exp(RNG.normal(0, 0.3, 6))
    q /= q.sum()
    kl = (p * np.log(p / q)).sum()
    found = {
        kind: np.asarray(returns.kl_estimate(jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q)), kind), float)
        for kind in returns.KL_ESTIMATES
    }
    assert (p * found["k1"]).sum() == pytest.approx(kl, rel=1e-5)
    assert (p * found["k3"]).sum() == pytest.approx(kl, rel=1e-5)
    np.testing.assert_allclose(found["k2"], 0.5 * np.log(p / q) ** 2, rtol=1e-4, atol=1e-8)
    assert found["k3"].min() >= 0 > found["k1"].min()
    assert (p * found["k3"] ** 2).sum() < (p * found["k1"] ** 2).sum()  # why it is the one to log


def test_overlong_completions_by_the_numbers_of_dapo():
    lengths = jnp.array([1, 16_384, 17_408, 18_432, 20_480, 30_000])
    found = returns.overlong_penalty(lengths, most=20_480, buffer=4_096)
    np.testing.assert_allclose(found, [0, 0, -0.25, -0.5, -1, -1])
    for buffer in (0, -1, 11):
        with pytest.raises(ValueError, match=f"buffer={buffer}: must lie above 0 and not above most=10"):
            returns.overlong_penalty(lengths, most=10, buffer=buffer)


def test_explained_variance():
    back = 2 * VALUES + REWARDS
    found = returns.explained_variance(dirty(back), dirty(VALUES), MASK)
    r, v = back[HERE].astype(float), VALUES[HERE].astype(float)
    assert float(found) == pytest.approx(1 - np.var(r - v) / np.var(r), rel=1e-5)
    assert float(returns.explained_variance(dirty(back), dirty(back), MASK)) == 1
    assert float(returns.explained_variance(dirty(back), dirty(0 * back + 3), MASK)) == pytest.approx(
        0, abs=1e-6
    )
    assert float(returns.explained_variance(jnp.ones((B, T)), dirty(VALUES), MASK)) == 0
    assert jax.jit(returns.explained_variance)(back, back, MASK * 0) == 0


@pytest.mark.parametrize("scale", ["std", "population", "none"])
@pytest.mark.parametrize("baseline", returns.BASELINES)
def test_scores_that_are_none_are_left_out_of_their_group(baseline, scale):
    """A group of four with one NaN has the advantages of the three others."""
    some, none = [1.0, 2.0, 4.0], float("nan")
    alone, _ = returns.group_advantages(jnp.array(some), 3, baseline=baseline, scale=scale)
    r = jnp.array([1.0, none, 2.0, 4.0, none, none, none, 3.0])
    found, flat = returns.group_advantages(r, 4, baseline=baseline, scale=scale)
    np.testing.assert_allclose(found, [alone[0], 0, *alone[1:], 0, 0, 0, 0], rtol=1e-6)
    assert flat.tolist() == [0.0] * 4 + [1.0] * 4


def test_the_scale_of_a_batch_is_that_of_its_scores():
    r = jnp.array([0.0, 2.0, float("nan"), 1.0, 1.0, 4.0])
    found, _ = returns.group_advantages(r, 3, scale="batch")
    size = np.sqrt((1 + 1 + 1 + 1 + 4) / 5)
    np.testing.assert_allclose(found, np.array([-1, 1, 0, -1, -1, 2]) / (size + 1e-4), rtol=1e-6)
