"""Draws against the same filters in float64 NumPy, and against how likely each token is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.ops.sampling import draw, uniforms

V, B = 40, 16
RNG = np.random.default_rng(0)
X = RNG.normal(0, 2, (B, V)).astype(np.float32)
SEEN = RNG.random((B, V)) < 0.3
COLUMNS = {
    "temperature": np.linspace(0.3, 2.0, B, dtype=np.float32),
    "top_k": np.array([0, 1, 2, 3, 5, 8, 13, 21, 34, 39, 40, 41, 0, 7, 9, 11], np.int32),
    "top_p": np.linspace(0.05, 1.0, B, dtype=np.float32),
    "min_p": np.linspace(0.0, 0.9, B, dtype=np.float32),
    "repetition_penalty": np.linspace(0.8, 1.6, B, dtype=np.float32),
}
N = 4096  # uniform numbers a row, evenly apart


def reference(row, **how):
    """The distribution of one row that is drawn from, by its definition."""
    x = X[row].astype(np.float64)
    if theta := how.get("repetition_penalty"):
        x = np.where(SEEN[row], np.where(x > 0, x / theta, x * theta), x)
    x = x / how.get("temperature", 1.0)
    if k := how.get("top_k"):
        x[np.argsort(-x)[k:]] = -np.inf
    if "top_p" in how:
        order = np.argsort(-x)
        p = np.exp(x[order] - x.max()) / np.exp(x - x.max()).sum()
        x[order[np.cumsum(p) - p >= how["top_p"]]] = -np.inf
    if "min_p" in how:
        x[np.exp(x - x.max()) < how["min_p"]] = -np.inf
    p = np.exp(x - x.max())
    return p / p.sum()


@jax.jit
def spread(how, x, seen):
    """(token, logp) of each of N uniform numbers for each row, i32 and f32[N, B]."""
    u = (jnp.arange(N, dtype=jnp.float32) + 0.5) / N
    return jax.vmap(lambda u: draw(jnp.full(x.shape[0], u), x, how, seen))(u)


ALONE = [(name,) for name in COLUMNS]


@pytest.mark.parametrize(
    "names", [(), *ALONE, ("top_k", "top_p", "temperature"), tuple(COLUMNS)], ids="+".join
)
def test_each_filter_and_all_together_are_those_of_the_definition(names):
    how = {name: COLUMNS[name] for name in names}
    tokens, logps = (np.asarray(x) for x in spread(how, X, SEEN))
    for row in range(B):
        wanted = reference(row, **{name: column[row].item() for name, column in how.items()})
        share = np.bincount(tokens[:, row], minlength=V) / N
        assert not share[wanted == 0].any()
        np.testing.assert_allclose(share, wanted, atol=1.01 / N)  # numbers evenly apart: off by one at most
        np.testing.assert_allclose(logps[:, row], np.log(wanted[tokens[:, row]]), atol=2e-5)


def test_temperature_0_takes_the_most_likely_token_and_tells_its_undivided_log_probability():
    how = {"temperature": np.where(np.arange(B) % 2, 0.7, 0.0).astype(np.float32)}
    tokens, logps = (np.asarray(x) for x in spread(how, X, SEEN))
    for row in range(0, B, 2):
        assert (tokens[:, row] == X[row].argmax()).all() and len({*tokens[:, row + 1].tolist()}) > 1
        np.testing.assert_allclose(logps[:, row], np.log(reference(row).max()), atol=1e-5)


def test_what_is_filtered_is_never_drawn_even_by_the_outermost_numbers():
    x = np.where(RNG.random((B, 1000)) < 0.5, -np.inf, RNG.normal(0, 3, (B, 1000))).astype(np.float32)
    x[:, [0, -1]] = -np.inf
    for u in (0.0, 1 - 2.0**-24):
        token, logp = draw(jnp.full(B, u, jnp.float32), x, {})
        assert np.isfinite(x[np.arange(B), token]).all() and np.isfinite(logp).all()


def test_a_row_of_top_p_1_keeps_what_rounding_hides():
    """The shares above an unlikely token may add up to 1 in f32; the last row makes the filter act."""
    x = np.random.default_rng(0).normal(0, 6, (64, V)).astype(np.float32)
    top_p = np.where(np.arange(64) < 63, 1.0, 0.5).astype(np.float32)
    for u in (0.0, 1 - 2.0**-24):
        uniform, none = jnp.full(64, u, jnp.float32), jnp.zeros((64, V), bool)
        (tokens, _), (all_tokens, _) = draw(uniform, x, {"top_p": top_p}, none), draw(uniform, x, {}, none)
        np.testing.assert_array_equal(tokens[:63], all_tokens[:63])


def test_ties_with_the_last_one_kept_are_kept():
    x = np.log(np.array([[0.4, 0.2, 0.2, 0.2]], np.float32))
    tokens, _ = spread({"top_k": np.array([2], np.int32)}, x, None)
    np.testing.assert_allclose(np.bincount(np.asarray(tokens)[:, 0]) / N, [0.4, 0.2, 0.2, 0.2], atol=1.01 / N)


def test_uniforms_are_uniform_and_of_seed_and_index_alone():
    seeds, index = jnp.arange(200, dtype=jnp.uint32), jnp.broadcast_to(jnp.arange(100), (200, 100))
    found = np.asarray(uniforms(seeds, index))
    assert found.min() >= 0 and found.max() < 1 and len(np.unique(found)) > 19_900
    share = np.histogram(found, 20, (0, 1))[0] / found.size
    assert np.abs(share - 0.05).max() < 4 * np.sqrt(0.05 / found.size)
    assert abs(np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]) < 0.03
    assert np.array_equal(uniforms(seeds[5:6], index[:1, 7:9]), found[5:6, 7:9])


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 1e-9}, {"temperature": 1e-37}, {"temperature": 1e-30, "top_p": 0.5}, {"top_p": 0.0},
        {"top_p": -1.0}, {"min_p": 2.0},
    ],
    ids=str,
)  # fmt: skip
def test_extreme_parameters_leave_the_most_likely_token(how):
    columns = {name: np.full(B, value, np.float32) for name, value in how.items()}
    token, logp = jax.jit(draw)(np.full(B, 0.7, np.float32), 100 * X, columns)
    assert token.tolist() == X.argmax(-1).tolist() and np.array_equal(logp, np.zeros(B))
