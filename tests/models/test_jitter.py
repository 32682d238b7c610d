"""Jitter: how far parameters are moved, that the draws are its own, and that a run without it is not touched."""

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.models import jitter, transformer, zoo
from jaxtrain.stages.load_model import build_model
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("gpt2", layers=1)
MODEL = tiny.model(ARCH)


def moves(amount, seed=0):
    """(parameters, relative moves) of every leaf, flat."""
    before, after = (
        MODEL.init(jax.random.key(seed)),
        jitter.jittered(MODEL.init, amount)(jax.random.key(seed)),
    )
    assert jax.tree.structure(before) == jax.tree.structure(after)
    pairs = [*zip(*map(jax.tree.leaves, (before, after)), strict=True)]
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)
    x, y = (
        np.concatenate([np.asarray(side, np.float64).ravel() for side in sides])
        for sides in zip(*pairs, strict=True)
    )
    assert np.array_equal(x == 0, y == 0), "what is 0 stays 0"
    return x[x != 0], (y[x != 0] - x[x != 0]) / x[x != 0]


@pytest.mark.parametrize("amount", [1e-6, 1e-3])
def test_a_move_is_normal_and_relative(amount):
    x, moved = moves(amount)
    assert moved.std() == pytest.approx(amount, rel=0.05) and abs(moved.mean()) < 0.05 * amount
    assert abs(np.corrcoef(np.abs(x), np.abs(moved))[0, 1]) < 0.05, "as far for large ones as for small ones"
    assert np.abs(moved).max() < 6 * amount


def test_the_draws_depend_on_the_seed_and_are_not_those_of_the_parameters():
    (x, first), (_, again), (_, other) = moves(1e-3), moves(1e-3), moves(1e-3, seed=1)
    assert np.array_equal(first, again)
    n = min(len(first), len(other))
    for one, two in ((first[:n], other[:n]), (x, first)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_a_model_without_jitter_has_the_init_of_its_architecture():
    plan, arch = (
        parallel.make(config.Run()),
        zoo.resolve("tinytown-200k,layers=1,width=16,heads=1,ff=16,vocab=64"),
    )
    plain = build_model(plan, arch, config.Model()).init
    assert plain.__module__ == transformer.__name__
    moved = build_model(plan, arch, config.Model(jitter=1e-6)).init
    old, new = (jax.tree.leaves(init(jax.random.key(3))) for init in (plain, moved))
    assert not any(np.array_equal(a, b) for a, b in zip(old, new, strict=True) if a.any())
    for a, b in zip(old, new, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
