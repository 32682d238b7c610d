import jax
import numpy as np
import pytest

from jaxtrain.models import reward
from tests import tiny
from tests.objectives.cases import _comparisons

M = 3
MODEL = tiny.model(tiny.shrink("llama3.1-8b", layers=2, vocab=24, dropout=0.5))


@pytest.fixture(scope="module")
def made():
    scorer = reward.build(MODEL, M)
    trunk = MODEL.init(jax.random.key(0))
    return scorer, trunk, scorer.grow(trunk, jax.random.key(1))


def test_an_ensemble_starts_from_one_trunk_with_heads_of_its_own(made):
    scorer, trunk, params = made
    for member in range(M):
        copy = jax.tree.map(lambda x, member=member: x[member], params["trunk"])
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, copy, trunk)))
    head = params["score"]
    assert head["weight"].shape == (M, 32) and not head["bias"].any()
    assert len({row.tobytes() for row in np.asarray(head["weight"])}) == M
    found = {tuple(entry.key for entry in path): x.ndim for path, x in jax.tree.leaves_with_path(params)}
    assert found == {path: len(names) for path, names in scorer.axes.items()}
    assert all(names[0] == "members" for names in scorer.axes.values())


def test_heads_are_drawn_with_variance_one_over_width_plus_one():
    trunk = {"embed": np.zeros((4, 99), np.float32)}
    head = reward.build(MODEL, 400).grow(trunk, jax.random.key(0))["score"]["weight"]
    assert head.std() == pytest.approx(0.1, rel=0.02) and abs(head.mean()) < 0.002


def test_a_score_is_read_at_the_last_token_of_what_stands_alone(made):
    """One forward of all alternatives gives what each one gives by itself; dropout has no part in it."""
    scorer, _, params = made
    params["score"]["bias"] = np.array([0.5, -1.0, 2.0], np.float32)
    batch = _comparisons(3, 3)
    batch["length"][1, 2] = 0
    found = jax.jit(scorer.scores)(params, batch)
    assert found.shape == (M, 3, 3) and not found[:, 1, 2].any()
    hidden = jax.jit(MODEL.hidden)
    for row, n in np.argwhere(batch["length"] > 0):
        alone = {name: batch[name][row, n][None] for name in ("tokens", "positions", "segments")}
        for member in range(M):
            trunk = jax.tree.map(lambda x, member=member: x[member], params["trunk"])
            last = np.asarray(hidden(trunk, alone)[0, batch["length"][row, n] - 1], np.float64)
            wanted = last @ np.asarray(params["score"]["weight"][member], np.float64)
            wanted += params["score"]["bias"][member]
            assert found[member, row, n] == pytest.approx(wanted, abs=1e-4)


def test_what_comes_after_the_last_token_does_not_matter(made):
    scorer, _, params = made
    batch = _comparisons(4)
    scores = jax.jit(scorer.scores)
    padding = batch["segments"] == 0
    dirty = {
        **batch,
        "tokens": np.where(padding, 7, batch["tokens"]),
        "positions": 5 * padding + batch["positions"],
    }
    assert padding.any() and np.array_equal(scores(params, batch), scores(params, dirty))
    last = batch["tokens"].copy()
    last[0, 0, batch["length"][0, 0] - 1] += 1
    moved = scores(params, {**batch, "tokens": last}) != scores(params, batch)
    assert moved[:, 0, 0].all() and moved.sum() == M
