"""The step on a linear regression, whose gradients can be written down."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import config
from jaxtrain.train import optim
from jaxtrain.train.step import evaluate, init_state, train_step
from jaxtrain.types import Loss


def squares(params, frozen, batch, rng):
    """Σ m (x·w + noise − y)², with the noise of a row where `rng` is given."""
    noise = 0.0
    if rng is not None and "row" in batch:
        keys = jax.vmap(functools.partial(jax.random.fold_in, rng))(batch["row"])
        noise = jax.vmap(jax.random.normal)(keys)[:, None]
    error = (batch["x"] @ params["w"]["kernel"])[..., 0] + noise - batch["y"]
    total = (batch["mask"] * error**2).sum()
    return Loss(
        total,
        batch["mask"].sum(),
        {"loss": (total, batch["mask"].sum()), "noise": (jnp.sum(noise), len(batch["y"]))},
    )


def data(rows=8, length=5, noise=False, seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(1, length + 1, (rows, 1))).astype(np.float32)
    x, y = rng.normal(size=(rows, length, 3)), rng.normal(size=(rows, length))
    made = {"x": x.astype(np.float32), "y": y.astype(np.float32), "mask": mask}
    return made | ({"row": np.arange(rows, dtype=np.int32)} if noise else {})


def start(tx, extra=()):
    return init_state({"w": {"kernel": jnp.ones((3, 1))}}, tx, jax.random.key(3), extra)


@functools.cache
def make(tx, **kwargs):
    return jax.jit(functools.partial(train_step, objective=squares, tx=tx, **kwargs))


def summed(extra, metrics):
    return extra * 2 + metrics["loss"][1]


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


SGD = optax.sgd(0.1)
ADAM = optim.optimizer(config.Optim(warmup=4, lr=0.1, ema=0.9), 20, {})
BAD = {
    "nan": lambda b: {**b, "y": np.full_like(b["y"], np.nan)},
    "inf": lambda b: {**b, "y": np.full_like(b["y"], np.inf)},
    "overflow": lambda b: {**b, "y": np.full_like(b["y"], 1e25)},  # the sum of squares leaves f32
    # The loss and the gradient are finite, and the gradient's square is not.
    "norm": lambda b: {**b, "x": b["x"] * 1e10, "y": np.full_like(b["y"], 1e18)},
    "no weight": lambda b: {**b, "mask": np.zeros_like(b["mask"])},
}


def test_a_step_of_sgd_by_hand():
    batch = data()
    state, metrics = make(SGD)(start(SGD), (), batch)
    error = batch["x"].astype(np.float64).sum(-1) - batch["y"]
    weight = batch["mask"].sum()
    grad = 2 * np.einsum("bt,btd->d", batch["mask"] * error, batch["x"]) / weight
    np.testing.assert_allclose(state.params["w"]["kernel"][:, 0], 1 - 0.1 * grad, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], (np.linalg.norm(grad), 1), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], ((batch["mask"] * error**2).sum(), weight), rtol=1e-5)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (1, 0, 0)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_microbatches_of_ragged_rows_give_the_same_update(parts):
    batch = data()
    assert len({*batch["mask"].sum(1)}) > 2
    whole, told = make(SGD)(start(SGD), (), batch)
    state, metrics = make(SGD, microbatches=parts)(start(SGD), (), batch)
    np.testing.assert_allclose(state.params["w"]["kernel"], whole.params["w"]["kernel"], rtol=1e-6)
    for name in told:
        np.testing.assert_allclose(metrics[name], told[name], rtol=1e-6)


def test_part_i_of_n_has_row_i_and_every_nth_after_it():
    """So that each part has rows of every shard of the batch."""

    def ends(params, frozen, batch, rng):
        product = (batch["row"][0] * batch["row"][-1]).astype(jnp.float32)
        return squares(params, frozen, batch, rng)._replace(metrics={"ends": (product, jnp.ones(()))})

    step = functools.partial(train_step, objective=ends, tx=SGD, microbatches=2)
    _, metrics = jax.jit(step)(start(SGD), (), data(noise=True))
    assert float(metrics["ends"][0]) == 0 * 6 + 1 * 7


@pytest.mark.parametrize("before", [0, 1, 6], ids=["first", "warm-up", "later"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_step_is_counted_and_changes_nothing_else(kind, before):
    step = make(ADAM, carry=summed)
    state, batches = start(ADAM, jnp.float32(1)), [data(seed=i) for i in range(before + 2)]
    for batch in batches[:before]:
        state, _ = step(state, (), batch)
    good, clean = step(state, (), batches[-1])
    bad, metrics = step(state, (), BAD[kind](batches[-2]))
    assert same((bad.params, bad.opt_state, bad.extra), (state.params, state.opt_state, state.extra))
    streak = kind != "no weight"  # which may be as often as it will, so that it ends no run
    assert (int(bad.step), int(bad.skipped), int(bad.skipped_in_row)) == (before + 1, 1, streak)
    assert float(metrics["skipped_in_row"][0]) == streak and bool(metrics["grad_norm"][0] == 0) != streak
    again, _ = step(bad, (), BAD[kind](batches[-2]))
    assert (int(again.skipped), int(again.skipped_in_row)) == (2, 2 * streak)
    after, found = step(again, (), batches[-1])  # as if the bad ones had never been
    assert same((after.params, after.opt_state, after.extra), (good.params, good.opt_state, good.extra))
    assert not same(after.params, state.params)
    assert (int(after.step), int(after.skipped), int(after.skipped_in_row)) == (before + 3, 2, 0)
    assert same(found["grad_norm"], clean["grad_norm"])


def test_a_step_without_weight_neither_ends_nor_adds_to_a_streak():
    step, state = make(ADAM), start(ADAM)
    for kind, in_row, reported in (("nan", 1, 1), ("no weight", 1, 0), ("inf", 2, 2)):
        state, metrics = step(state, (), BAD[kind](data()))
        assert (int(state.skipped_in_row), int(metrics["skipped_in_row"][0])) == (in_row, reported)


def test_carry_moves_extra():
    step = make(SGD, carry=summed)
    state, batch = start(SGD, jnp.float32(3)), data()
    state, _ = step(state, (), batch)
    assert float(state.extra) == 6 + batch["mask"].sum()
    state, _ = make(SGD)(state, (), batch)
    assert float(state.extra) == 6 + batch["mask"].sum()


def test_randomness_is_of_the_step_and_the_row():
    batch, step = data(noise=True), make(SGD)
    one, first = step(start(SGD), (), batch)
    _, second = step(one, (), batch)
    _, again = step(start(SGD), (), batch)
    assert same(first, again)
    assert float(first["noise"][0]) != float(second["noise"][0])
    turned = {name: x[::-1] for name, x in batch.items()}
    other, _ = step(start(SGD), (), turned)  # rows elsewhere in the batch take their noise with them
    np.testing.assert_allclose(other.params["w"]["kernel"], one.params["w"]["kernel"], rtol=1e-5)
    moved, _ = step(start(SGD), (), {**batch, "row": batch["row"] + 8})
    assert not np.allclose(moved.params["w"]["kernel"], one.params["w"]["kernel"], rtol=1e-3)
    parts, _ = make(SGD, microbatches=4)(start(SGD), (), batch)
    np.testing.assert_allclose(parts.params["w"]["kernel"], one.params["w"]["kernel"], rtol=1e-5)


def test_evaluation_sums_over_devices():
    params, batch = start(SGD).params, data()
    whole = evaluate(params, (), batch, objective=squares)
    parts = {name: x.reshape(4, 2, *x.shape[1:]) for name, x in batch.items()}
    each = functools.partial(evaluate, objective=squares, axis_name="data")
    found = jax.vmap(each, in_axes=(None, None, 0), axis_name="data")(params, (), parts)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, np.full(4, a), rtol=1e-6)


def test_evaluation_has_no_randomness():
    metrics = jax.jit(functools.partial(evaluate, objective=squares))(start(SGD).params, (), data(noise=True))
    assert float(metrics["noise"][0]) == 0
