import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.ops.sampling import draw

P = np.array([0.5, 0.3, 0.15, 0.05])
N = 20_000


def frequencies(**how):
    x = jnp.broadcast_to(jnp.log(jnp.asarray(P, jnp.float32)), (N, 4))
    tokens, logps = draw(jax.random.split(jax.random.key(0), N), x, **how)
    tokens, logps = np.asarray(tokens), np.asarray(logps)
    return np.bincount(tokens, minlength=4) / N, {
        int(t): float(logps[tokens == t][0]) for t in np.unique(tokens)
    }


def check(wanted, found):
    share, logps = found
    np.testing.assert_allclose(share, wanted, atol=4 * np.sqrt(0.25 / N))
    assert logps.keys() == set(np.flatnonzero(wanted))
    for token, logp in logps.items():
        np.testing.assert_allclose(logp, np.log(wanted[token]), atol=1e-5)


def test_plain():
    check(P, frequencies())


def test_temperature():
    check(P**2 / (P**2).sum(), frequencies(temperature=0.5))


def test_top_k():
    check(np.array([0.5, 0.3, 0, 0]) / 0.8, frequencies(top_k=2))


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    check(np.array([0.5, 0.3, 0, 0]) / 0.8, frequencies(top_p=0.6))
    check(np.array([0.5, 0.3, 0.15, 0]) / 0.95, frequencies(top_p=0.81))
    check(np.array([1.0, 0, 0, 0]), frequencies(top_p=0.01))


def test_greedy():
    tokens, logps = draw(
        jax.random.split(jax.random.key(0), 1), jnp.log(jnp.asarray(P))[None], temperature=0.0
    )
    assert tokens.tolist() == [0]
    np.testing.assert_allclose(logps, [np.log(0.5)], rtol=1e-6)


def test_a_row_does_not_depend_on_its_neighbours():
    keys, x = jax.random.split(jax.random.key(3), 8), jax.random.normal(jax.random.key(4), (8, 50))
    whole = draw(keys, x, temperature=0.9, top_k=20, top_p=0.9)
    alone = draw(keys[5:6], x[5:6], temperature=0.9, top_k=20, top_p=0.9)
    assert whole[0][5] == alone[0][0] and whole[1][5] == alone[1][0]
