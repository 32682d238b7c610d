"""The uniform noise on embeddings: how large it is, what it depends on, and where it is off."""

import jax
import numpy as np
import pytest

from jaxtrain.models import embedding_noise
from tests import tiny

ALPHA, D = 5.0, 32
ARCH = tiny.shrink("llama3.1-8b", layers=1)
PLAIN, NOISY = tiny.model(ARCH), tiny.model(ARCH, noise=ALPHA)


@pytest.fixture(scope="module")
def params():
    return PLAIN.init(jax.random.key(0))


@pytest.fixture(scope="module")
def hidden():
    return jax.jit(NOISY.hidden)


def batch(rows=3, seed=0):
    return tiny.batch(rows, 24, ARCH.vocab, seed=seed)


def test_it_is_uniform_and_as_large_as_the_length_of_the_document_says():
    segments = np.repeat([1, 2, 3, 0], [4, 100, 400, 8])[None].repeat(40, 0)
    keys = jax.random.split(jax.random.key(0), 40)
    found = np.asarray(embedding_noise.neftune_noise(ALPHA, segments, D, keys), np.float64)
    assert found.shape == (40, 512, D)
    for number, length in ((1, 4), (2, 100), (3, 400)):
        most, here = ALPHA / np.sqrt(length * D), found[:, segments[0] == number]
        assert 0.995 * most < np.abs(here).max() <= most * (1 + 1e-6)
        assert here.var() == pytest.approx(most**2 / 3, rel=0.05) and abs(here.mean()) < 0.03 * most
    flat = found[:, 4:104].reshape(40, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(40)).max() < 0.1  # rows have noise of their own


def test_it_is_off_where_no_key_is_given_and_acts_where_one_is(params, hidden):
    rows = batch()
    plain = jax.jit(PLAIN.hidden)
    assert np.array_equal(hidden(params, rows), plain(params, rows))
    found = hidden(params, rows, jax.random.key(1))
    assert not np.allclose(found, plain(params, rows), atol=1e-3)
    assert np.array_equal(found, hidden(params, rows, jax.random.key(1)))
    assert not np.array_equal(found, hidden(params, rows, jax.random.key(2)))
    assert np.array_equal(plain(params, rows, jax.random.key(1)), plain(params, rows))


def test_a_row_has_the_same_noise_in_any_place_beside_any_others(params, hidden):
    rows, others = batch(), batch(seed=9)
    moved = {name: np.stack([others[name][0], x[2], x[1]]) for name, x in rows.items()}
    moved["row"] = np.array([7, 2, 1], np.int32)
    key = jax.random.key(1)
    np.testing.assert_allclose(
        hidden(params, moved, key)[1:], hidden(params, rows, key)[:0:-1], rtol=1e-5, atol=1e-5
    )
    renamed = {**rows, "row": np.array([0, 1, 5], np.int32)}
    changed = hidden(params, renamed, key) != hidden(params, rows, key)
    assert not changed[:2].any() and changed[2].any()


def test_padding_has_no_part_in_it(params, hidden):
    rows, key = batch(), jax.random.key(1)
    padding = rows["segments"] == 0
    dirty = {
        **rows,
        "tokens": np.where(padding, 3, rows["tokens"]),
        "positions": np.where(padding, 17, rows["positions"]),
    }
    assert padding.any()
    same = hidden(params, dirty, key) == hidden(params, rows, key)
    assert np.asarray(same)[~padding].all()


def test_decoding_has_none(params):
    tokens, places = batch()["tokens"][:, :6], np.tile(np.arange(6), (3, 1))
    found, wanted = (m.decode(params, tokens, places, m.cache(3, 8))[0] for m in (NOISY, PLAIN))
    assert np.array_equal(found, wanted)
