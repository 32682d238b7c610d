"""Constraints by logical axes, on a mesh of eight virtual devices: where arrays and their gradients lie."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.ops.logprobs import token_stats
from jaxtrain.ops.placement import copied, laid, moved
from jaxtrain.train import parallel
from jaxtrain.types import Head

OWN = ("vocab", "embed")


def inside(mesh, f, *args):
    """f(*args), jitted inside the mesh that --mesh names."""
    plan = parallel.make(config.Run(mesh=mesh))
    return plan.ready(lambda args, _: f(*args))(args, ())


def shard(x):
    """The shape of a device's part of an array."""
    return x.sharding.shard_shape(x.shape)


def test_axes_lie_as_the_rules_say_and_whole_where_they_do_not_divide():
    x = np.arange(96.0).reshape(12, 8)
    for shape, expected in (((12, 8), (6, 2)), ((12, 6), (6, 6)), ((9, 8), (9, 2))):
        out = inside("fsdp:4,tensor:2", lambda x: laid(x * 2, OWN), x[: shape[0], : shape[1]])
        assert shard(out) == expected
        np.testing.assert_array_equal(out, 2 * x[: shape[0], : shape[1]])
    with pytest.raises(KeyError, match="width"):
        inside("fsdp:8", lambda x: laid(x, ("width", None)), x)


def test_outside_of_a_mesh_nothing_acts():
    def f(x):
        return laid(moved(x, OWN, (OWN,)), OWN).sum() + copied(x, (1, 1), OWN).sum()

    assert "sharding_constraint" not in str(jax.make_jaxpr(jax.grad(f))(jnp.ones((4, 4))))


def test_a_gradient_lies_where_moved_says():
    def f(x):
        return jax.grad(lambda x: (moved(x, (None, None), ((None, None), OWN)) ** 2).sum())(x)

    gradient = inside("fsdp:4,tensor:2", f, np.ones((4, 8)))
    assert shard(gradient) == (2, 2)
    np.testing.assert_array_equal(gradient, np.full((4, 8), 2.0))


def test_copies_are_one_on_each_part_s_device_and_their_gradient_is_the_sum():
    x, scale = np.arange(32.0).reshape(4, 8), np.arange(1.0, 9.0).reshape(4, 2, 1, 1)

    def f(x):
        copies = copied(x, (4, 2), OWN)
        return copies, jax.grad(lambda x: (copied(x, (4, 2), OWN) * scale).sum())(x)

    copies, gradient = inside("fsdp:4,context:2", f, x)
    assert shard(copies) == (1, 1, 4, 8) and shard(gradient)[1] <= 2
    np.testing.assert_array_equal(copies, np.broadcast_to(x, (4, 2, 4, 8)))
    np.testing.assert_array_equal(gradient, np.full((4, 8), 36.0))


V, D, B, T = 48, 16, 16, 12


@functools.cache
def gradients(mesh, parts, chunks):
    """(gradients of hidden and weight, the compiled text) of log-probabilities in so many chunks."""
    rng = np.random.default_rng(0)
    hidden, weight = (rng.normal(size=shape).astype("f") for shape in ((B, T, D), (V, D)))
    targets = rng.integers(0, V, (B, T)).astype(np.int32)

    def f(args, _):
        hidden, weight = args

        def total(hidden, weight):
            head = Head(laid(weight, OWN), 0.0, B * T * V // chunks, parts=parts)
            return (token_stats(hidden, head, targets)["logps"] * np.arange(T)).sum()

        return jax.grad(total, (0, 1))(laid(hidden, ("batch", "time", None)), laid(weight, OWN))

    run = parallel.make(config.Run(mesh=mesh, parallel="mesh")).ready(f)
    text = run.lower((hidden, weight), ()).compile().as_text()
    return [np.asarray(x) for x in run((hidden, weight), ())], text


@pytest.mark.parametrize(("mesh", "parts"), [("fsdp:8", (8, 1)), ("data:2,fsdp:2,context:2", (4, 2))])
@pytest.mark.parametrize("chunks", [1, 3])
def test_every_mesh_has_the_gradients_of_one_device(mesh, parts, chunks):
    alone, _ = gradients("", (1, 1), 1)
    for a, b in zip(alone, gradients(mesh, parts, chunks)[0], strict=True):
        np.testing.assert_allclose(b, a, atol=2e-4)


def loops(text):
    """The text of the bodies of a program's loops."""
    parts = re.split(r"\n(?=%?\S+ \(.*\) -> .* \{\n)", text)
    bodies = set(re.findall(r"body=%?([\w.-]+)", text))
    return "\n".join(part for part in parts if part.split(" ")[0].lstrip("%") in bodies)


def test_no_chunk_exchanges_anything():
    """The weight is gathered once and its gradient reduced once; without parts each chunk reduces it."""
    once, each = gradients("fsdp:8", (8, 1), 3)[1], gradients("fsdp:8", (1, 1), 3)[1]
    moving = r"all-reduce\(|all-gather\(|reduce-scatter\(|all-to-all\("
    assert len(re.findall(moving, once)) == 2 and not re.search(moving, loops(once))
    assert re.search(moving, loops(each))
