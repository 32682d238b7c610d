"""Attention with sinks: every kernel beside the softmax written out in float64, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.models import attention, context_attention, flash_attention, sinks
from jaxtrain.models.zoo import resolve
from jaxtrain.train import parallel
from tests import tiny

LENGTH, WIDTH, HEADS = 64, 8, 4
KERNELS = {
    "xla": attention.xla,
    "blocked": attention.blocked,
    "flash": attention.flash,
    "splash": functools.partial(attention.splash, interpret=True),
}


def inputs(kv_heads, length=LENGTH, width=WIDTH, heads=HEADS):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (
        jax.random.normal(key, (2, length, h, width))
        for key, h in zip(keys, (heads, kv_heads, kv_heads), strict=False)
    )
    segments = jnp.asarray(np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], length // 4, axis=1), jnp.int32)
    return q, k, v, 2 * jax.random.normal(keys[3], (heads,)), segments


def by_hand(q, k, v, sink, segments, window):
    """float64, a query at a time."""
    (q, k, v, sink), segments = (np.asarray(x, np.float64) for x in (q, k, v, sink)), np.asarray(segments)
    out = np.zeros_like(q)
    for b, t, h in np.ndindex(q.shape[:3]):
        seen = [
            s for s in range(t + 1) if segments[b, s] == segments[b, t] and (not window or t - s < window)
        ]
        group = h * k.shape[2] // q.shape[2]
        weights = np.exp(k[b, seen, group] @ q[b, t, h])
        out[b, t, h] = weights @ v[b, seen, group] / (weights.sum() + np.exp(sink[h]))
    return out


def gradients(kernel, q, k, v, sink, segments):
    def scalar(q, k, v, sink):
        out = kernel(sinks.attached(q, sink), k, v, segments)
        return (out * jnp.sin(jnp.arange(out.shape[-1]))).sum(), out

    return jax.jit(jax.grad(scalar, argnums=(0, 1, 2, 3), has_aux=True))(q, k, v, sink)


@pytest.mark.parametrize(("kv_heads", "window"), [(4, 0), (2, 11)])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_have_the_sink_in_the_denominator(name, kv_heads, window, monkeypatch):
    monkeypatch.setattr(flash_attention, "BLOCK", 24)
    masking = {"causal": True, "window": window, "softcap": 0.0}
    if name == "splash":  # its blocks are of 128
        case = inputs(kv_heads, length=128, width=64)
        case = (*(x / 8**0.5 for x in case[:2]), *case[2:])
    else:
        case = inputs(kv_heads)
    found, out = gradients(functools.partial(KERNELS[name], **masking), *case)
    np.testing.assert_allclose(out, by_hand(*case, window), atol=2e-5)
    wanted, _ = gradients(functools.partial(attention.xla, **masking), *case)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.abs(found[3]).min() > 1e-3


def test_the_gradient_of_a_sink_is_that_of_differences():
    *case, segments = inputs(2)
    kernel = functools.partial(attention.flash, causal=True, window=0, softcap=0.0)
    found = gradients(kernel, *case, segments)[0][3]
    for head in range(HEADS):
        values = []
        for step in (1e-4, -1e-4):
            moved = np.asarray(case[3], np.float64)
            moved[head] += step
            values.append((by_hand(*case[:3], moved, segments, 0) * np.sin(np.arange(WIDTH))).sum())
        assert found[head] == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3, abs=1e-4)


def test_bfloat16_is_near_float32():
    *case, segments = inputs(2)
    kernel = functools.partial(attention.flash, causal=True, window=0, softcap=0.0)
    rough = [x.astype(jnp.bfloat16) for x in case]
    wanted = gradients(kernel, *(x.astype(jnp.float32) for x in rough), segments)[0]
    for a, b in zip(gradients(kernel, *rough, segments)[0], wanted, strict=True):
        assert np.linalg.norm(a.astype(np.float32) - b) < 0.02 * np.linalg.norm(b)


# Heads that divide over context, and key heads that do not, so that keys are gathered.
@pytest.mark.parametrize(("mesh", "heads", "kv_heads"), [("context:2", 4, 2), ("context:4", 6, 2)])
def test_a_row_split_over_devices_is_that_of_one(mesh, heads, kv_heads):
    arch = tiny.shrink("gpt-oss-20b", heads=heads, kv_heads=kv_heads, head_width=WIDTH)
    case = inputs(kv_heads, heads=heads)
    plan = parallel.make(config.Run(mesh=mesh), jax.devices()[: int(mesh[-1])])
    kernel = context_attention.kernel_for(tiny.how(local=plan.local), arch, 0, LENGTH)
    found, out = gradients(kernel, *case)
    np.testing.assert_allclose(out, by_hand(*case, 0), atol=2e-5)
    wanted, _ = gradients(functools.partial(attention.xla, causal=True, window=0, softcap=0.0), *case)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_cudnn_has_none_and_says_so():
    arch = tiny.shrink("gpt-oss-20b", head_width=64)
    chosen, reason = attention.choose("auto", arch, jnp.bfloat16, 512, "gpu", "9.0")
    assert (chosen, reason) == ("flash", "cudnn has no attention sinks")
    with pytest.raises(ConfigError, match="--attention=cudnn: cudnn has no attention sinks"):
        attention.kernel_for(tiny.how("cudnn", dtype=jnp.bfloat16, platform="gpu"), arch, 0, 512)


def test_a_model_without_sinks_has_no_parameter_of_them():
    plain, with_sinks = (
        jax.eval_shape(
            tiny.model(resolve(f"nano,layers=2,width=32,heads=4,vocab=64{more}")).init, jax.random.key(0)
        )
        for more in ("", ",attn_sinks=true")
    )
    assert "sinks" not in plain["layers"]["attention"]
    assert with_sinks["layers"]["attention"]["sinks"].shape == (2, 4)
