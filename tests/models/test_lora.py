"""Adapters as a transform of parameters, against the formulas in float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError, Lora
from jaxtrain.models import lora, reward
from tests import tiny

R, SCALE = 3, 6.0 / 3
SETTINGS = Lora(lora_rank=R, lora_alpha=6.0)
DORA = Lora(lora_rank=R, lora_alpha=6.0, dora=True)
MODEL = tiny.model(tiny.shrink("llama3.1-8b", layers=2))
AXES = MODEL.axes
both = pytest.mark.parametrize("settings", [SETTINGS, DORA], ids=["lora", "dora"])


@functools.cache
def base():
    return jax.jit(MODEL.init)(jax.random.key(0))


def adapters(settings, seed=1):
    """The trained tree after a while: nothing of it is 0 or what it was."""
    start = lora.init(base(), jax.random.key(seed), AXES, settings)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), start)


def at(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return tree


def flat(tree):
    return {"/".join(k.key for k in path): np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}


@both
def test_fresh_adapters_change_nothing(settings):
    start = lora.init(base(), jax.random.key(3), AXES, settings)
    found, wanted = flat(lora.merge(base(), start, AXES, settings)), flat(base())
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        if settings.dora:
            np.testing.assert_allclose(found[path], value, rtol=1e-6, atol=1e-9)
        else:
            assert np.array_equal(found[path], value)
    drawn = at(start, "layers/mlp/down/kernel/a")
    assert drawn.std() == pytest.approx(48**-0.5, rel=0.15)  # of 48 inputs
    assert not np.array_equal(drawn[0], drawn[1])


def test_the_trained_tree_is_the_axes_tree_with_shapes_of_low_rank():
    wanted = lora.adapter_axes(AXES, DORA)
    start = lora.init(base(), jax.random.key(0), AXES, DORA)
    found = {tuple(path.split("/")): x for path, x in flat(start).items()}
    assert found.keys() == wanted.keys()
    for path, names in wanted.items():
        kernel = flat(base())["/".join(path[:-1])]
        sizes = dict(zip(AXES[path[:-1]], kernel.shape, strict=True)) | {"rank": R}
        assert found[path].shape == tuple(sizes[name] for name in names), path
    out = (
        wanted["layers", "attention", "out", "kernel", "a"],
        wanted["layers", "attention", "out", "kernel", "b"],
    )
    assert out == (("layers", "heads", "head", "rank"), ("layers", "rank", "embed"))
    assert sum(x.size for x in found.values()) < 0.7 * sum(x.size for x in flat(base()).values())


# A kernel that reads the width and one that writes it, with how they look as a matrix of inputs by outputs.
KERNELS = {"layers/attention/q/kernel": (32, 32), "layers/attention/out/kernel": (32, 32)}


def exact(settings, path, layer):
    """(W₀, A, B, m) of a kernel in float64 as matrices."""
    trained = at(adapters(settings), path)
    shape = KERNELS[path]
    parts = [np.asarray(at(base(), path)[layer], np.float64).reshape(shape)]
    parts.append(np.asarray(trained["a"][layer], np.float64).reshape(shape[0], R))
    parts.append(np.asarray(trained["b"][layer], np.float64).reshape(R, shape[1]))
    return *parts, np.asarray(trained["m"][layer], np.float64).reshape(-1) if settings.dora else None


@both
@pytest.mark.parametrize("path", KERNELS)
def test_value_and_gradients_are_those_of_x_a_b(settings, path):
    """f = Σ cos(x W₀ + s (x A) B), and DoRA's with the norm held constant, differentiated by hand in float64."""
    inputs = np.random.default_rng(5).normal(size=(7, KERNELS[path][0])).astype(np.float32)

    def loss(trained):
        whole = at(lora.merge(base(), trained, AXES, settings), path)
        return jnp.cos(inputs @ whole[1].reshape(KERNELS[path])).sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(adapters(settings))
    w, a, b, m = exact(settings, path, 1)
    x = inputs.astype(np.float64)
    norm = np.sqrt(((w + SCALE * a @ b) ** 2).sum(0))
    scale = m / norm if settings.dora else 1.0
    plain = x @ w + SCALE * (x @ a) @ b
    slope = -np.sin(plain * scale)
    assert value == pytest.approx(np.cos(plain * scale).sum(), abs=2e-4)
    wanted = {"a": SCALE * x.T @ (slope * scale) @ b.T, "b": SCALE * (x @ a).T @ (slope * scale)}
    if settings.dora:
        wanted["m"] = (slope * plain / norm).sum(0)
    found = at(grads, path)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name][1].reshape(gradient.shape), gradient, atol=2e-4, err_msg=name)
        assert not np.asarray(found[name][0]).any()  # the other layer has no part in it


@both
def test_merged_parameters_are_base_and_product_and_the_rest_is_the_base(settings):
    before = {path: value.copy() for path, value in flat(base()).items()}
    found = flat(lora.merge(base(), adapters(settings), AXES, settings))
    for path, shape in KERNELS.items():
        for layer in range(2):
            w, a, b, m = exact(settings, path, layer)
            whole = w + SCALE * a @ b
            if settings.dora:
                whole = m * whole / np.sqrt((whole**2).sum(0))
            np.testing.assert_allclose(found[path][layer].reshape(shape), whole, atol=1e-5)
            if settings.dora:  # a column is as long as its magnitude says
                norms = np.sqrt((found[path][layer].astype(np.float64).reshape(shape) ** 2).sum(0))
                np.testing.assert_allclose(norms, np.abs(m), rtol=1e-5)
    assert all(np.array_equal(value, flat(base())[path]) for path, value in before.items())
    for path, value in before.items():
        assert np.array_equal(found[path], value) == (not path.endswith("kernel")), path


def test_targets_are_found_by_pattern():
    def names(text):
        return ["/".join(path) for path in lora.targets(AXES, Lora(lora_rank=1, lora_targets=text))]

    assert names("attention/(q|v)") == ["layers/attention/q/kernel", "layers/attention/v/kernel"]
    assert names("down/kernel,attention/v") == ["layers/attention/v/kernel", "layers/mlp/down/kernel"]
    assert len(names("attention,mlp")) == 7
    every = re.escape(", ".join("/".join(path) for path in AXES if path[-1] == "kernel"))
    with pytest.raises(ConfigError, match=rf"--lora_targets=mlp,embed: 'embed' finds none of {every}"):
        names("mlp,embed")
    with pytest.raises(ConfigError, match=r"--lora_targets=\(: '\(': "):
        names("(")
    with pytest.raises(ConfigError, match="'' finds none of"):
        names("mlp,")


def test_a_part_without_a_base_is_trained_whole_and_members_have_adapters_of_their_own():
    scorer = reward.build(MODEL, 2)
    params = scorer.grow(base(), jax.random.key(2))
    start = lora.init(params, jax.random.key(0), scorer.axes, SETTINGS)
    assert start.keys() == {"score", "trunk"} and np.array_equal(
        start["score"]["weight"], params["score"]["weight"]
    )
    a = at(start, "trunk/layers/attention/q/kernel/a")
    assert a.shape == (2, 2, 32, R) and not np.array_equal(a[0], a[1])
    assert {tuple(path.split("/")) for path in flat(start)} == lora.adapter_axes(scorer.axes, SETTINGS).keys()
    moved = jax.tree.map(lambda x: x + 0.5, start)
    found = lora.merge(params, moved, scorer.axes, SETTINGS)
    assert np.array_equal(found["score"]["weight"], moved["score"]["weight"])
    for member in range(2):
        a, b = (np.asarray(at(moved, f"trunk/layers/mlp/up/kernel/{n}")[member, 1], np.float64) for n in "ab")
        wanted = np.asarray(at(params, "trunk/layers/mlp/up/kernel")[member, 1], np.float64) + SCALE * a @ b
        np.testing.assert_allclose(at(found, "trunk/layers/mlp/up/kernel")[member, 1], wanted, atol=1e-5)
