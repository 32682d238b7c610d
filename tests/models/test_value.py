"""Where values start from, what they read, and adapters over policy and values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import Lora
from jaxtrain.models import lora, reward, value
from tests import tiny
from tests.objectives.cases import _comparisons

MODEL = tiny.model(tiny.shrink("llama3.1-8b", layers=2, vocab=24, dropout=0.5))
kinds = pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])


@functools.cache
def start():
    return jax.jit(MODEL.init)(jax.random.key(0))


@functools.cache
def scorer():
    """(a reward model of two members, its parameters, trained a little)."""
    made = reward.build(MODEL, 2)
    params = made.grow(start(), jax.random.key(1))
    rng = np.random.default_rng(2)
    return made, jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32), params)


def rows():
    return {name: x[:, 0] for name, x in _comparisons(3, 1).items() if name not in ("row", "length")}


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(np.array_equal, a, b))
    )


@kinds
def test_values_start_at_zero_on_the_policys_trunk(shared):
    made = value.build(MODEL, shared)
    params = made.grow(start(), jax.random.key(1))
    assert same(params["policy"], start())
    assert ("trunk" in params["value"]) != shared
    assert shared or same(params["value"]["trunk"], start())
    hidden, values = jax.jit(made.look)(params, rows())
    assert np.array_equal(hidden, jax.jit(MODEL.hidden)(start(), rows()))
    assert values.shape == hidden.shape[:2] and values.dtype == np.float32 and not values.any()
    assert np.array_equal(made.head(params).weight, MODEL.head(start()).weight)


@kinds
def test_every_parameter_has_its_axes(shared):
    made = value.build(MODEL, shared)
    params = jax.eval_shape(made.grow, start(), jax.random.key(1))
    found = {tuple(entry.key for entry in path): x.ndim for path, x in jax.tree.leaves_with_path(params)}
    assert found == {path: len(names) for path, names in made.axes.items()}
    assert all(made.axes["policy", *path] == names for path, names in MODEL.axes.items())


def test_parameters_of_policy_and_values_are_arrays_of_their_own():
    """The step donates them: a buffer that is there twice cannot be."""
    params = value.build(MODEL, False).grow(start(), jax.random.key(1))
    where = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(params)]
    assert len(set(where)) == len(where)


def test_values_of_a_reward_model_are_its_normalised_scores():
    """At the last token the value is gain · score + bias of the member it was grown from."""
    ensemble, params = scorer()
    member = jax.tree.map(lambda x: x[1], params)
    made = value.build(MODEL, False)
    gain, bias = jnp.float32(0.4), jnp.float32(-1.5)
    grown = made.grow(start(), jax.random.key(1), (member["trunk"], member["score"], gain, bias))
    assert same(grown["policy"], start()) and same(grown["value"]["trunk"], member["trunk"])
    batch = _comparisons(3, 1)
    raw = np.asarray(jax.jit(ensemble.scores)(params, batch))[1, :, 0]
    _, values = jax.jit(made.look)(grown, rows())
    last = np.take_along_axis(np.asarray(values), batch["length"] - 1, 1)[:, 0]
    np.testing.assert_allclose(last, 0.4 * raw - 1.5, atol=1e-4)
    assert np.std(raw) > 1e-3


def test_a_shared_trunk_does_not_take_a_reward_models_head():
    params = scorer()[1]
    member = (params["trunk"], params["score"], 1.0, 0.0)
    with pytest.raises(ValueError, match="policy's trunk cannot start from a reward model"):
        value.build(MODEL, True).grow(start(), jax.random.key(1), member)


@kinds
def test_values_teach_the_policys_trunk_only_where_it_is_shared(shared):
    made = value.build(MODEL, shared)
    params = made.grow(start(), jax.random.key(1))
    params["value"]["score"]["weight"] = params["value"]["score"]["weight"] + 0.1
    grads = jax.jit(jax.grad(lambda p: made.look(p, rows())[1].sum()))(params)
    moved = {name: any(np.asarray(x).any() for x in jax.tree.leaves(g)) for name, g in grads.items()}
    assert moved == {"policy": shared, "value": True}
    assert float(grads["value"]["score"]["bias"]) == rows()["tokens"].size


@kinds
def test_adapters_of_policy_and_values_with_a_head_that_is_trained_whole(shared):
    made, settings = value.build(MODEL, shared), Lora(lora_rank=2, lora_targets="attention/q,mlp/up")
    params = made.grow(start(), jax.random.key(1))
    axes = lora.adapter_axes(made.axes, settings)
    part = lora.init(params, jax.random.key(2), made.axes, settings)
    found = {tuple(entry.key for entry in path): x.ndim for path, x in jax.tree.leaves_with_path(part)}
    assert found == {path: len(names) for path, names in axes.items()}
    assert ("value", "score", "weight") in axes and ("policy", "embed") not in axes
    look = jax.jit(lambda part, base: made.look(lora.merge(base, part, made.axes, settings), rows()))
    hidden, values = look(part, params)
    np.testing.assert_allclose(hidden, jax.jit(made.look)(params, rows())[0], atol=1e-6)
    assert not values.any()
    part["value"]["score"] = {"weight": jnp.zeros(32), "bias": jnp.float32(0.75)}
    assert np.array_equal(look(part, params)[1], np.full((3, 16), 0.75, "f"))
    assert float(params["value"]["score"]["bias"]) == 0, "the base stays what it was"
