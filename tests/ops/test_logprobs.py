"""Against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.ops.logprobs import STATS, logits, token_stats
from jaxtrain.types import Head

pytestmark = pytest.mark.usefixtures("optimized")


def exact(hidden, weight, targets, softcap, temperature):
    x = np.asarray(hidden, np.float64) @ np.asarray(weight, np.float64).T
    if softcap:
        x = softcap * np.tanh(x / softcap)
    x = x / temperature
    lse = np.log(np.exp(x).sum(-1))
    logp = x - lse[..., None]
    chosen = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    return {
        "logps": chosen,
        "lse": lse,
        "correct": (logp.argmax(-1) == targets).astype(float),
        "entropy": -(np.exp(logp) * logp).sum(-1),
        "mean_logps": logp.mean(-1),
    }


@pytest.mark.parametrize("limit", [2**20, 2 * 7 * 11 // 2, 1])
@pytest.mark.parametrize(("softcap", "temperature"), [(0.0, 1.0), (2.0, 0.7)])
def test_every_statistic_whole_and_in_chunks(limit, softcap, temperature):
    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(2, 7, 5)).astype("f"), rng.normal(size=(11, 5)).astype("f")
    targets = rng.integers(0, 11, (2, 7))
    targets[0, 0] = (hidden[0, 0] @ weight.T).argmax()
    found = token_stats(
        hidden, Head(weight, softcap, limit), targets, temperature=temperature, want=tuple(STATS)
    )
    for name, value in exact(hidden, weight, targets, softcap, temperature).items():
        assert found[name].dtype == jnp.float32
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def test_a_hand_computed_case():
    # Logits (0, log 3): p = (1/4, 3/4).
    head = Head(jnp.array([[0.0], [np.log(3.0)]]), 0.0, 2**20)
    found = token_stats(jnp.ones((1, 2, 1)), head, jnp.array([[0, 1]]), want=tuple(STATS))
    np.testing.assert_allclose(found["logps"], [[np.log(0.25), np.log(0.75)]], rtol=1e-6)
    np.testing.assert_allclose(found["lse"], [[np.log(4)] * 2], rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], [[0.5623351446] * 2], rtol=1e-6)
    np.testing.assert_array_equal(found["correct"], [[0, 1]])


def test_a_tie_of_the_most_likely_tokens_counts_its_share():
    """So that a collapsed model, whose logits are all equal, has an accuracy of 1 / V and not of 1."""
    logits = np.array([[[0, 0, 0, 0], [2, 1, 2, 0], [2, 1, 2, 0], [np.nan] * 4]], "f")
    head = Head(jnp.eye(4), 0.0, 2**20)
    found = token_stats(jnp.asarray(logits), head, jnp.array([[3, 0, 1, 0]]), want=("correct",))
    np.testing.assert_array_equal(found["correct"], [[0.25, 0.5, 0, 0]])


def test_chunks_have_the_gradient_of_the_whole():
    rng = np.random.default_rng(1)
    hidden, weight = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 9, 4), (13, 4)))
    targets = jnp.asarray(rng.integers(0, 13, (2, 9)))

    def total(limit, hidden, weight):
        return (token_stats(hidden, Head(weight, 0.0, limit), targets)["logps"] * jnp.arange(9.0)).sum()

    whole, parts = (jax.grad(lambda h, w, n=n: total(n, h, w), (0, 1))(hidden, weight) for n in (2**20, 60))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4)


def test_above_the_limit_the_logits_are_never_whole():
    """Peak memory of the compiled gradient stays far below f32[B, T, V], and well above it where it is allowed."""
    B, T, D, V = 2, 256, 8, 4096
    hidden, weight = jnp.zeros((B, T, D)), jnp.zeros((V, D))
    targets = jnp.zeros((B, T), jnp.int32)

    def peak(limit):
        f = jax.jit(
            jax.grad(lambda h, w: token_stats(h, Head(w, 0.0, limit), targets)["logps"].sum(), (0, 1))
        )
        return f.lower(hidden, weight).compile().memory_analysis().temp_size_in_bytes

    whole = 4 * B * T * V
    assert peak(B * T * V // 32) < whole / 8
    assert peak(B * T * V) >= whole


def test_logits_of_bfloat16_are_float32():
    out = logits(jnp.ones((3, 4), jnp.bfloat16), Head(jnp.ones((5, 4), jnp.bfloat16), 0.0, 1))
    assert out.dtype == jnp.float32 and out.shape == (3, 5)


def test_entropy_does_not_cancel_where_logits_share_an_offset():
    x = np.random.default_rng(0).normal(0, 1, (1, 1, 50))
    weight = np.concatenate([x[0, 0][:, None], np.ones((50, 1))], 1).astype(np.float32)
    hidden = np.array([[[1.0, 30_000.0]]], np.float32)  # each logit is x + 30,000
    rounded = (x.astype(np.float32) + np.float32(30_000)).astype(np.float64)
    p = np.exp(rounded - rounded.max()) / np.exp(rounded - rounded.max()).sum()
    got = token_stats(
        jnp.asarray(hidden), Head(jnp.asarray(weight), 0.0, 2**20), jnp.zeros((1, 1), int), want=("entropy",)
    )
    np.testing.assert_allclose(got["entropy"][0, 0], -(p * np.log(p)).sum(), atol=2e-3)
