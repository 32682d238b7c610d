"""Merged parameters of tiny models, on one device and sharded over eight, against NumPy."""

import functools

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.models import transformer
from jaxtrain.stages import merging
from jaxtrain.stages.load_model import LoadedModel
from jaxtrain.stages.merge_spec import Merge, MergeInput
from jaxtrain.train import parallel
from tests import tiny

ARCH = tiny.shrink("llama2-7b", layers=2, vocab=64)
MODEL = transformer.build(ARCH, tiny.how())


@functools.cache
def tree(seed):
    return jax.tree.map(np.asarray, MODEL.init(jax.random.key(seed)))


@pytest.fixture(autouse=True)
def _loaded(monkeypatch):
    def load_model(start, plan):
        return LoadedModel(
            MODEL, plan.init(lambda: MODEL.init(jax.random.key(start)), MODEL.axes), plan, None
        )

    monkeypatch.setattr(merging, "load_model", load_model)


@functools.cache
def plans():
    return {
        "one": parallel.make(config.Run(parallel="mesh"), jax.devices()[:1]),
        "sharded": parallel.make(config.Run(parallel="mesh", mesh="fsdp:4,tensor:2"), jax.devices()),
    }


def slerp(a, b, t):
    angle = np.arccos(min((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30), 1.0))
    if np.cos(angle) > 0.999 or not a.any():
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def ties(vectors, weights):
    """TIES with the larger half of each vector."""
    kept = [np.where(abs(v) >= np.sort(abs(v).ravel())[v.size - -(-v.size // 2)], v, 0) for v in vectors]
    elected = np.sign(sum(w * v for w, v in zip(weights, kept, strict=True)))
    agree = [w * ((np.sign(v) == elected) & (v != 0)) for w, v in zip(weights, kept, strict=True)]
    return sum(w * v for w, v in zip(agree, kept, strict=True)) / np.maximum(sum(agree), 1e-30)


@pytest.mark.parametrize(
    ("method", "name"),
    [("linear", "one"), ("slerp", "one"), ("task", "one"), ("ties", "one"), ("ties", "sharded")],
)
def test_a_merge_is_the_formula_on_every_tensor_of_every_layer(method, name):
    weights = {"linear": [0.25, 0.75], "slerp": [0.7, 0.3], "task": [0.5, -0.25], "ties": [1.0, 2.0]}[method]
    inputs = tuple(MergeInput(str(seed), seed, weight) for seed, weight in zip((1, 2), weights, strict=True))
    base = 3 if method in ("task", "ties") else None
    merged = merging.merged_params(Merge(method, inputs, base, 0.5, 0.8, None, ()), plans()[name])

    def wanted(a, b, origin):
        if method == "linear":
            return 0.25 * a + 0.75 * b
        if method == "slerp":
            return slerp(a, b, 0.3)
        if method == "task":
            return origin + 0.8 * (0.5 * (a - origin) - 0.25 * (b - origin))
        return origin + 0.8 * ties([a - origin, b - origin], weights)

    flat = [jax.tree.leaves_with_path(each) for each in (merged, tree(1), tree(2), tree(3))]
    for (path, got), (_, a), (_, b), (_, origin) in zip(*flat, strict=True):
        stacked = "layers" in jax.tree_util.keystr(path)
        rows = [each if stacked else each[None] for each in (np.asarray(got), a, b, origin)]
        assert not stacked or len(got) == 2
        for layer in zip(*rows, strict=True):
            np.testing.assert_allclose(
                layer[0], wanted(*layer[1:]), rtol=1e-4, atol=1e-6, err_msg=jax.tree_util.keystr(path)
            )
