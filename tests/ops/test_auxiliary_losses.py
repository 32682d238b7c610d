"""Auxiliary losses on a function whose gradients can be written down."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.ops import auxiliary_losses
from jaxtrain.train.step import evaluate, init_state, train_step
from jaxtrain.types import Loss


def objective(params, frozen, batch, rng):
    """Σ over rows of a · u, weight Σ u; the model's own: Σ over tokens of 3 a v, mean over Σ v."""
    a, v = params["a"], batch["v"]
    auxiliary_losses.emit(Loss(3 * (a * v).sum(), v.sum(), {"own": ((a * v).sum(), v.sum())}))
    return Loss((a * batch["u"]).sum(), batch["u"].sum(), {"loss": (a.sum(), jnp.ones(()))})


def batch(rows=8):
    rng = np.random.default_rng(0)
    return {name: rng.integers(1, 9, rows).astype(np.float32) for name in "uv"}


PARAMS = {"a": jnp.asarray(2.0)}


def gradient(microbatches, axis_name=None):
    """The step's own gradient, from SGD with a rate of 1."""
    tx = optax.sgd(1.0)
    step = functools.partial(
        train_step, objective=objective, tx=tx, microbatches=microbatches, axis_name=axis_name
    )
    state, columns = init_state(PARAMS, tx, jax.random.key(0)), batch(16)
    if axis_name is None:
        after, metrics = jax.jit(step)(state, (), columns)
    else:
        parts = {name: x.reshape(4, -1) for name, x in columns.items()}
        run = jax.pmap(step, axis_name=axis_name, in_axes=(None, None, 0), out_axes=(None, None))
        after, metrics = run(state, (), parts)
    return float(PARAMS["a"] - after.params["a"]), metrics


@pytest.mark.parametrize(("microbatches", "axis"), [(1, None), (4, None), (1, "data"), (2, "data")])
def test_the_gradient_is_that_of_two_means(microbatches, axis):
    """Σ u / Σ u + 3 Σ v / Σ v = 4, however u and v are spread over devices and microbatches."""
    found, metrics = gradient(microbatches, axis)
    assert found == pytest.approx(4.0, rel=1e-6)
    total, count = metrics["own"]
    assert float(total / count) == pytest.approx(2.0) and float(count) == batch(16)["v"].sum()


def test_the_parts_of_a_batch_add_up():
    columns = batch(6)
    whole = auxiliary_losses.units(objective, PARAMS, (), columns, None)
    assert float(whole[0]) == columns["u"].sum() and [float(x) for x in whole[1]] == [columns["v"].sum()]
    parts = [
        auxiliary_losses.joined(objective, PARAMS, (), {k: x[i : i + 1] for k, x in columns.items()}, None, whole=whole)
        for i in range(6)
    ]  # fmt: skip
    one = auxiliary_losses.joined(objective, PARAMS, (), columns, None)
    for a, *b in zip(jax.tree.leaves(one), *map(jax.tree.leaves, parts), strict=True):
        if a is not one.metrics["loss"][0] and a is not one.metrics["loss"][1]:
            assert float(sum(b)) == pytest.approx(float(a), rel=1e-6)


def test_an_objective_without_them_is_as_it_was():
    def plain(params, frozen, batch, rng):
        return Loss(params["a"], batch["u"].sum(), {})

    assert auxiliary_losses.units(plain, PARAMS, (), batch(), None) is None
    assert float(auxiliary_losses.joined(plain, PARAMS, (), batch(), None).total) == 2.0
    assert "own" in evaluate(PARAMS, (), batch(), objective=objective)


def test_nothing_is_collected_outside_or_leaks_from_one_to_the_next():
    objective(PARAMS, (), batch(), None)
    total = [float(auxiliary_losses.joined(objective, PARAMS, (), batch(), None).total) for _ in range(2)]
    assert total[0] == total[1]

    def broken(*args):
        objective(*args)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        auxiliary_losses.joined(broken, PARAMS, (), batch(), None)
    assert float(auxiliary_losses.joined(objective, PARAMS, (), batch(), None).total) == total[0]


def test_members_of_an_ensemble_are_trained_each_as_if_alone():
    members, columns = jnp.array([1.0, 2.0, 4.0]), batch()

    def ensemble(params, frozen, batch, rng):
        def one(a):
            v = batch["v"]
            auxiliary_losses.emit(Loss((a**2 * v).sum(), v.sum(), {"own": ((a * v).sum(), v.sum())}))
            return a * batch["u"]

        totals = auxiliary_losses.mapped(one, params)
        return Loss(totals.sum(), batch["u"].sum(), {})

    def total(members):
        loss = auxiliary_losses.joined(ensemble, members, (), columns, None)
        return loss.total / loss.weight, loss.metrics["own"]

    grads, (own, count) = jax.jit(jax.grad(total, has_aux=True))(members)
    np.testing.assert_allclose(grads, 1 + 2 * members, rtol=1e-6)
    assert float(own / count) == pytest.approx(7 / 3) and float(count) == columns["v"].sum()
