"""Products with kernels in parts, on a mesh of eight virtual devices: numbers, what is exchanged, what is kept."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.ops import sharded_matmul
from jaxtrain.ops.sharded_matmul import KernelLayout, matmul
from jaxtrain.train import parallel

B, T = 8, 4
KERNELS = [  # logical axes, size, axes that are read
    (("embed", "ff"), (16, 24), 1),
    (("ff", "embed"), (24, 16), 1),
    (("embed", "heads", "head"), (16, 4, 6), 1),
    (("heads", "head", "embed"), (4, 6, 16), 2),
    (("embed", "kv", "head"), (12, 1, 6), 1),  # neither axis divides over all meshes
]
MESHES = [
    "fsdp:8",
    "fsdp:4,tensor:2",
    "data:2,fsdp:2,context:2",
    "data:2,fsdp:2,expert:2",
    "context:4,tensor:2",
]


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def compiled(mesh, names, size, reads, rows=B, platform="cpu"):
    """(value and gradients of a product, compiled on a mesh, its arguments, what they lie as)."""
    plan = parallel.make(config.Run(mesh=mesh, parallel="mesh"))
    x = numbers(rows * T, int(np.prod(size[:reads])))
    c = numbers(rows * T, int(np.prod(size[reads:])))
    kernel = plan.init(lambda: {"kernel": jnp.asarray(numbers(*size))}, {("kernel",): names})["kernel"]

    def f(args, _):
        layout = KernelLayout(names, (rows, T), plan.local, platform)
        return jax.value_and_grad(lambda x, k: (c * matmul(x, k, jnp.float32, layout)).sum(), (0, 1))(*args)

    return plan.ready(f), (x, kernel), c


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(("names", "size", "reads"), KERNELS)
def test_value_and_gradients_are_those_of_one_device(mesh, names, size, reads):
    f, (x, kernel), c = compiled(mesh, names, size, reads)
    value, (of_x, of_kernel) = f((x, kernel), ())
    flat = np.asarray(kernel, np.float64).reshape(x.shape[1], -1)
    np.testing.assert_allclose(value, (c * (x @ flat)).sum(), rtol=1e-4)
    np.testing.assert_allclose(of_x, c @ flat.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_kernel, (x.T @ c).reshape(size), rtol=1e-4, atol=1e-4)


def test_rows_that_do_not_divide_have_the_same_gradient():
    f, (x, kernel), c = compiled("fsdp:8", *KERNELS[0], rows=3)
    np.testing.assert_allclose(f((x, kernel), ())[1][1], x.T @ c, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS[:4])
def test_neighbours_sum_first_where_a_ring_is_large(kernel, monkeypatch):
    f, arguments, _ = compiled("fsdp:8", *kernel, platform="tpu")
    plain = f(arguments, ())[1][1]
    monkeypatch.setattr(sharded_matmul, "LARGEST_RING", 4)
    f, arguments, _ = compiled("fsdp:8", *kernel, platform="tpu")
    np.testing.assert_allclose(f(arguments, ())[1][1], plain, rtol=1e-5, atol=1e-5)
    assert f.lower(arguments, ()).as_text().count('"stablehlo.reduce_scatter"') == 2


@pytest.mark.parametrize("mesh", ["fsdp:8", "data:2,fsdp:4"])
@pytest.mark.parametrize("kernel", KERNELS[:4])
def test_parts_are_gathered_and_each_device_gets_its_part_of_the_gradient(mesh, kernel):
    size = kernel[1]
    f, arguments, _ = compiled(mesh, *kernel)
    text = f.lower(arguments, ()).compile().as_text()
    assert "reduce-scatter(" in text
    assert "all-gather(" in text
    whole = int(np.prod(size))
    sums = re.findall(r"= f32\[([\d,]+)\][^ ]* all-reduce\(", text)
    assert all(np.prod([int(n) for n in each.split(",")]) < whole for each in sums)
    of_kernel, array = f(arguments, ())[1][1], arguments[1]
    assert of_kernel.sharding.shard_shape(size) == array.sharding.shard_shape(size) != size


def test_a_scan_over_layers_keeps_parts_alone_for_the_backward_pass():
    plan = parallel.make(config.Run(mesh="fsdp:8"))
    layout = KernelLayout(("embed", "ff"), (B, T), plan.local, "cpu")
    params = plan.init(lambda: {"kernel": jnp.ones((5, 16, 16))}, {("kernel",): ("layers", "embed", "ff")})

    def loss(kernels, x):
        return jax.lax.scan(lambda x, k: (jnp.tanh(matmul(x, k, jnp.bfloat16, layout)), None), x, kernels)[
            0
        ].sum()

    f = plan.ready(lambda params, x: jax.grad(loss)(params["kernel"], x))
    text = f.lower(params, jnp.ones((B * T, 16), jnp.bfloat16)).compile().as_text()
    assert re.search(r"\[5,2,16\]", text)
    assert not re.search(r"\[5,16,16\]", text)


def test_without_a_split_the_product_is_the_plain_one():
    x, kernel = numbers(B * T, 16), numbers(16, 24)
    layout = KernelLayout(("embed", "ff"), (B, T))
    own = jax.make_jaxpr(jax.grad(lambda k: matmul(x, k, jnp.float32, layout).sum()))(kernel)
    plain = jax.make_jaxpr(jax.grad(lambda k: (x @ k.astype(jnp.float32).reshape(16, -1)).sum()))(kernel)
    assert str(own) == str(plain)
