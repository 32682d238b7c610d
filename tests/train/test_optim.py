"""Schedules, masks, clipping, averages, and what each optimizer does to matrices it has to see."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import config
from jaxtrain.models import lora
from jaxtrain.train import optim
from tests import tiny

KINDS = config.Optim.__dataclass_fields__["optimizer"].metadata["choices"]
PLAIN = {"warmup": 0, "schedule": "constant", "clip": 0.0, "weight_decay": 0.0}
AXES = {("a", "kernel"): ("embed", "ff")}


def rates(steps, *at, **settings):
    schedule = optim.schedule(config.Optim(**{"lr": 1.0, "warmup": 0, **settings}), steps)
    return [float(schedule(i)) for i in at]


@pytest.mark.parametrize(
    ("settings", "at", "wanted"),
    [
        ({"schedule": "constant"}, (0, 50, 99), (1, 1, 1)),
        ({"schedule": "constant", "warmup": 4}, (0, 1, 3, 4, 9), (0.25, 0.5, 1, 1, 1)),
        ({"schedule": "constant", "warmup": 1}, (0, 1), (1, 1)),
        ({"schedule": "linear", "end_lr": 0.0}, (0, 25, 50, 100), (1, 0.75, 0.5, 0)),
        ({"schedule": "linear", "end_lr": 0.5, "warmup": 20}, (19, 20, 60, 100), (1, 1, 0.75, 0.5)),
        ({"schedule": "cosine"}, (0, 50, 100), (1, 0.55, 0.1)),
        ({"schedule": "cosine", "warmup": 20, "end_lr": 0.0}, (9, 20, 40, 100), (0.5, 1, (2 + math.sqrt(2)) / 4, 0)),
        ({"schedule": "wsd", "decay_share": 0.2, "end_lr": 0.0}, (0, 80, 90, 100), (1, 1, 0.5, 0)),
        ({"schedule": "wsd", "decay_share": 0.5, "warmup": 20, "end_lr": 0.2}, (20, 60, 80, 100), (1, 1, 0.6, 0.2)),
    ],
)  # fmt: skip
def test_schedules_at_points_computed_by_hand(settings, at, wanted):
    np.testing.assert_allclose(rates(100, *at, **settings), wanted, atol=1e-6)


def moved(params, grads, **settings):
    tx = optim.optimizer(config.Optim(**{**PLAIN, "lr": 0.1, **settings}), 100, AXES)
    return tx.update(grads, tx.init(params), params)


@pytest.mark.parametrize("kind", KINDS)
def test_decay_acts_on_kernels_alone_and_with_the_learning_rate(kind):
    ones = jnp.ones((4, 4))
    params = {"a": {"kernel": ones}, "norm": {"scale": jnp.ones(4)}, "embed": ones}
    grads = jax.tree.map(jnp.ones_like, params)
    with_decay, _ = moved(params, grads, optimizer=kind, weight_decay=0.5)
    without, _ = moved(params, grads, optimizer=kind)
    np.testing.assert_allclose(
        with_decay["a"]["kernel"] - without["a"]["kernel"], -0.1 * 0.5 * ones, rtol=1e-4, err_msg=kind
    )
    assert np.array_equal(with_decay["embed"], without["embed"])
    assert np.array_equal(with_decay["norm"]["scale"], without["norm"]["scale"])


def test_both_matrices_of_an_adapter_decay_and_dora_s_norms_do_not():
    model = tiny.model(tiny.shrink("llama3.1-8b"))
    settings = config.Lora(lora_rank=2, dora=True)
    adapters = jax.eval_shape(
        lambda key: lora.init(model.init(key), key, model.axes, settings), jax.random.key(0)
    )
    decays = {path[-1].key: on for path, on in jax.tree.leaves_with_path(optim.decay_mask(adapters))}
    assert decays == {"a": True, "b": True, "m": False}


def test_every_parameter_that_is_in_a_product_decays_and_no_other():
    for name in tiny.FAMILIES:
        params = jax.eval_shape(tiny.model(tiny.shrink(name)).init, jax.random.key(0))
        found = {
            "/".join(e.key for e in path): on
            for path, on in jax.tree.leaves_with_path(optim.decay_mask(params))
        }
        assert any(found.values())
        for path, on in found.items():
            plain = any(word in path for word in ("norm", "bias", "embed", "positions", "sinks"))
            assert on == (not plain), path


def test_clipping_bounds_the_global_norm():
    params = {"a": {"kernel": jnp.zeros((2, 2))}, "b": jnp.zeros(1)}
    grads = {"a": {"kernel": jnp.full((2, 2), 3.0)}, "b": jnp.full(1, 8.0)}  # norm 10
    updates, _ = moved(params, grads, optimizer="sgd", lr=1.0, b1=0.0, clip=5.0)
    np.testing.assert_allclose(updates["a"]["kernel"], -1.5)
    np.testing.assert_allclose(updates["b"], -4.0)
    updates, _ = moved(params, grads, optimizer="sgd", lr=1.0, b1=0.0, clip=20.0)
    np.testing.assert_allclose(updates["b"], -8.0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_optimizer_lowers_a_quadratic(kind):
    target = jax.random.normal(jax.random.key(1), (6, 4))
    params = {"a": {"kernel": jnp.zeros((6, 4))}, "b": jnp.zeros(3)}
    tx = optim.optimizer(
        config.Optim(optimizer=kind, lr=0.1, warmup=3, schedule="linear", weight_decay=0), 80, AXES
    )

    def loss(p):
        return ((p["a"]["kernel"] - target) ** 2).sum() + ((p["b"] - 1) ** 2).sum()

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, before = tx.init(params), loss(params)
    for _ in range(80):
        params, state = step(params, state)
    assert loss(params) < 0.1 * before


def test_muon_makes_the_matrices_of_every_kernel_orthogonal():
    """A kernel of heads is one matrix from `embed` to all heads together; a stack of layers, one matrix each."""
    model, rng = tiny.model(tiny.shrink("qwen3-0.6b", layers=2)), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    grads, params = (
        jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes) for _ in range(2)
    )
    axes = model.axes
    tx = optim.optimizer(config.Optim(**PLAIN, optimizer="muon", lr=1.0, b1=0.5), 10, axes)
    updates, _ = jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(grads, params)
    seen = 0
    for path, update in jax.tree.leaves_with_path(updates):
        names = axes[tuple(entry.key for entry in path)]
        if path[-1].key != "kernel":
            assert np.abs(update).max() < 1.5, "Adam moves by about the learning rate"
            continue
        for layer in np.asarray(update):
            side = names[1:].index("embed")
            matrix = np.moveaxis(layer, side, 0).reshape(layer.shape[side], -1)
            values = np.linalg.svd(matrix, compute_uv=False)
            assert values.max() / values.min() < 2.0, f"{path}: {values}"  # of the gradient it is above 3
            seen += 1
    assert seen >= 14


def test_what_muon_leaves_to_adam_has_a_learning_rate_of_its_own():
    params = {"a": {"kernel": jnp.ones((3, 2))}, "norm": {"scale": jnp.ones(3)}, "embed": jnp.ones((4, 3))}
    grads = jax.tree.map(lambda x: x * jnp.arange(1.0, 1 + x.size).reshape(x.shape), params)
    found, low, high = (
        moved(params, grads, optimizer="muon", schedule="cosine", warmup=4, **given)[0]
        for given in ({"lr": 0.1, "adam_lr": 0.3}, {"lr": 0.1}, {"lr": 0.3})
    )
    assert np.array_equal(found["a"]["kernel"], low["a"]["kernel"])
    for name in ("norm", "embed"):
        assert jax.tree.all(jax.tree.map(np.array_equal, found[name], high[name])), name


def test_the_average_follows_its_recursion_and_is_what_is_evaluated():
    params = {"a": {"kernel": jnp.full((2, 2), 4.0)}}
    tx = optim.optimizer(config.Optim(**PLAIN, optimizer="sgd", lr=0.5, b1=0.0, ema=0.75), 10, AXES)
    state, average, now = tx.init(params), 4.0, 4.0
    for grad in (1.0, -2.0, 4.0):
        updates, state = tx.update(jax.tree.map(lambda p, g=grad: jnp.full_like(p, g), params), state, params)
        params = optax.apply_updates(params, updates)
        now -= 0.5 * grad
        average = 0.75 * average + 0.25 * now
        np.testing.assert_allclose(state.average["a"]["kernel"], average, rtol=1e-6)
        np.testing.assert_allclose(params["a"]["kernel"], now)
    assert optim.eval_params(params, state) is state.average
    plain = optim.optimizer(config.Optim(**PLAIN), 10, AXES)
    assert optim.eval_params(params, plain.init(params)) is params


def by_hand(grads, b1, b2, eps, lr):
    """TensorFlow's Adam as its own algorithm writes it, f64: the rate is corrected, the moments are not."""
    m = v = x = 0.0
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x = x - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        yield x


def test_adam_as_tensorflow_has_it():
    """Gradients of the size of eps, where it makes a difference; and decay, which is the rate's times the parameter."""
    eps, lr, decay = 1e-3, 0.1, 0.5
    grads = np.random.default_rng(2).normal(0, eps, (6, 2, 3))
    found = {}
    for kind in ("adam_tf", "adamw"):
        tx = optim.optimizer(config.Optim(**PLAIN, optimizer=kind, lr=lr, eps=eps), 10, AXES)
        params = {"a": {"kernel": jnp.zeros((2, 3))}}
        state, path = tx.init(params), []
        for g in grads:
            updates, state = tx.update({"a": {"kernel": jnp.asarray(g, jnp.float32)}}, state, params)
            params = optax.apply_updates(params, updates)
            path.append(params["a"]["kernel"])
        found[kind] = np.array(path)
    s = config.Optim()
    np.testing.assert_allclose(
        found["adam_tf"], list(by_hand(grads, s.b1, s.b2, eps, lr)), rtol=1e-4, atol=1e-7
    )
    first = np.abs(found["adam_tf"][0] / found["adamw"][0])
    assert first.max() < 0.6  # its first steps are the smaller ones
    start = {"a": {"kernel": jnp.ones((2, 3))}}
    tx = optim.optimizer(
        config.Optim(**{**PLAIN, "weight_decay": decay}, optimizer="adam_tf", lr=lr, eps=eps), 10, AXES
    )
    updates, _ = tx.update({"a": {"kernel": jnp.asarray(grads[0], jnp.float32)}}, tx.init(start), start)
    np.testing.assert_allclose(updates["a"]["kernel"], found["adam_tf"][0] - lr * decay, rtol=1e-4)


BRANCHES = {("policy", "kernel"): ("embed", "ff"), ("value", "kernel"): ("embed", "ff")}


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_a_branch_has_a_learning_rate_of_its_own(kind):
    params = {name: {"kernel": jnp.ones((3, 2))} for name in ("policy", "value")}
    grads = jax.tree.map(lambda x: x * jnp.arange(1.0, 7).reshape(3, 2), params)

    def updates(rates, scale=1.0, **changes):
        settings = config.Optim(
            **{**PLAIN, "lr": 0.1 * scale, "weight_decay": 0.2, **changes}, optimizer=kind
        )
        tx = optim.optimizer(settings, 10, BRANCHES, rates)
        return tx.update(grads, tx.init(params), params)

    plain, rated = updates({})[0], updates({"value": 3.0}, ema=0.5)
    assert np.array_equal(rated[0]["policy"]["kernel"], plain["policy"]["kernel"])
    np.testing.assert_allclose(
        rated[0]["value"]["kernel"], updates({}, scale=3.0)[0]["value"]["kernel"], rtol=1e-5
    )
    # The average is of what the parameters become.
    np.testing.assert_allclose(
        rated[1].average["value"]["kernel"], 1 + 0.5 * rated[0]["value"]["kernel"], rtol=1e-6
    )


def test_a_rate_of_a_branch_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no branch 'values' of the parameters: there are policy, value"):
        optim.optimizer(config.Optim(), 10, BRANCHES, {"values": 2.0})
