"""Attention of rows whose time is split over devices equals that of whole rows, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.models import attention, context_attention
from jaxtrain.train import parallel
from tests import tiny


def inputs(arch, length, dtype=jnp.float32):
    heads = (arch.heads, arch.K, arch.K)
    q, k, v = (
        (jax.random.normal(jax.random.key(i), (2, length, h, arch.C)) / arch.C**0.25).astype(dtype)
        for i, h in enumerate(heads)
    )
    segments = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], length // 4, axis=1).astype(np.int32)
    return q, k, v, jnp.asarray(np.roll(segments, 3, axis=1))  # documents end inside the parts


def gradients(kernel, arch, segments):
    def scalar(q, k, v):
        out = kernel(q, k, v, segments)
        return (out.astype(jnp.float32) * jnp.sin(jnp.arange(arch.C) * 1.0)).sum(), out

    return jax.jit(jax.grad(scalar, argnums=(0, 1, 2), has_aux=True))


def whole(arch):
    return functools.partial(attention.xla, causal=arch.causal, window=arch.window, softcap=arch.attn_softcap)


def split(mesh, arch, length, **how):
    count = int(np.prod([int(part.partition(":")[2]) for part in mesh.split(",")]))
    plan = parallel.make(config.Run(mesh=mesh), jax.devices()[:count])
    return context_attention.kernel_for(tiny.how(local=plan.local, **how), arch, arch.window, length)


# Heads that divide over context and heads that do not, key heads fewer and more than devices, and all masks.
@pytest.mark.parametrize(
    ("mesh", "changes", "way"),
    [
        ("context:2", {"heads": 4, "kv_heads": 2}, "by_heads"),
        ("context:4", {"heads": 8, "kv_heads": 2, "attn_softcap": 1.5, "window": 7}, "by_heads"),
        ("context:2,tensor:2", {"heads": 4, "kv_heads": 4}, "by_heads"),
        ("context:2,tensor:2", {"heads": 6, "kv_heads": 3}, "by_keys"),  # heads stay whole over tensor
        ("context:4", {"heads": 2, "kv_heads": 1}, "by_keys"),
        ("context:4", {"heads": 2, "kv_heads": 2, "attn_softcap": 1.5, "window": 7}, "by_keys"),
        ("context:4", {"heads": 2, "kv_heads": 1, "causal": False}, "by_keys"),
        ("context:4", {"heads": 2, "kv_heads": 1, "causal": False, "window": 9}, "by_keys"),
    ],
)
def test_split_rows_equal_whole_ones(mesh, changes, way, monkeypatch):
    arch = tiny.shrink("llama3.1-8b", head_width=16, **changes)
    q, k, v, segments = inputs(arch, 64)
    used = set()

    def recorded(name, call):
        return lambda *args, **kwargs: used.add(name) or call(*args, **kwargs)

    for name in ("by_heads", "by_keys"):
        monkeypatch.setattr(context_attention, name, recorded(name, getattr(context_attention, name)))
    wanted = gradients(whole(arch), arch, segments)(q, k, v)
    found = gradients(split(mesh, arch, 64), arch, segments)(q, k, v)
    assert used == {way}
    for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"window": 300, "attn_softcap": 1.5}, {"causal": False}])
def test_the_kernel_of_tpus_on_gathered_keys(changes):
    """Interpreted. Each device has the part of the mask that is its queries'."""
    arch = tiny.shrink("llama3.1-8b", heads=2, kv_heads=1, head_width=64, **changes)
    q, k, v, segments = inputs(arch, 1024)
    wanted = gradients(whole(arch), arch, segments)(q, k, v)
    found = gradients(split("context:4", arch, 1024, attention="splash"), arch, segments)(q, k, v)
    for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        np.testing.assert_allclose(b, a, atol=5e-5)


@pytest.mark.parametrize("heads", [8, 6])
def test_gradients_in_bfloat16_are_those_of_f32(heads):
    arch = tiny.shrink("llama3.1-8b", heads=heads, kv_heads=2, head_width=16)
    *low, segments = inputs(arch, 64, jnp.bfloat16)
    gradient = gradients(split("context:8", arch, 64), arch, segments)
    full, _ = gradient(*(x.astype(jnp.float32) for x in low))
    for a, b in zip(full, gradient(*low)[0], strict=True):
        assert jnp.linalg.norm(b.astype(jnp.float32) - a) < 0.01 * jnp.linalg.norm(a)


def test_every_device_works_on_as_many_pairs_of_query_and_key():
    for devices in (1, 2, 4, 7):
        parts = np.array(context_attention.half_parts(devices))
        assert sorted(parts.ravel()) == list(range(2 * devices))
        assert set((parts + 1).sum(0)) == {2 * devices + 1}
        assert (parts[0] % 2 == 0).all() and (parts[1] % 2 == 1).all()


def test_a_row_that_does_not_split_is_computed_whole():
    arch = tiny.shrink("llama3.1-8b", heads=4, kv_heads=2, head_width=16)
    q, k, v, segments = (x[:, :6] for x in inputs(arch, 64))
    wanted = whole(arch)(q, k, v, segments)
    np.testing.assert_allclose(split("context:2", arch, 6)(q, k, v, segments), wanted, atol=1e-5)
