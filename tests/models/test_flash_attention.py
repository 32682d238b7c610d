import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.models import attention, flash_attention
from jaxtrain.models.flash_attention import Masking

PLAIN = {"causal": True, "window": 0, "softcap": 0.0}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(flash_attention, "BLOCK", 16)


def inputs(length, heads=4, kv_heads=2, width=8, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(
        jax.random.normal(key, (2, length, h, width), dtype)
        for key, h in zip(keys, (heads, kv_heads, kv_heads), strict=True)
    )


def gradients(kernel, q, k, v, segments, **masking):
    def scalar(q, k, v):
        out = kernel(q, k, v, segments, **masking)
        return (out.astype(jnp.float32) * jnp.sin(jnp.arange(out.shape[-1]))).sum(), out

    return jax.jit(jax.grad(scalar, argnums=(0, 1, 2), has_aux=True))(q, k, v)


# tests/models/test_attention.py has rows of documents; these are whole rows, of lengths that no block divides.
@pytest.mark.parametrize("masking", [PLAIN, {"causal": False, "window": 0, "softcap": 1.5}])
@pytest.mark.parametrize("length", [1, 37])
def test_an_odd_row_without_segments_equals_the_plain_square(length, masking):
    arguments = (*inputs(length), None)
    wanted, found = (
        gradients(kernel, *arguments, **masking) for kernel in (attention.xla, flash_attention.flash)
    )
    for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5)


def test_bfloat16_is_near_float32():
    exact = inputs(50)
    rough = tuple(x.astype(jnp.bfloat16) for x in exact)
    segments = jnp.repeat(jnp.array([[1, 2], [1, 0]], jnp.int32), 25, axis=1)
    wanted = gradients(attention.xla, *(x.astype(jnp.float32) for x in rough), segments, **PLAIN)
    found = gradients(flash_attention.flash, *rough, segments, **PLAIN)
    for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        assert b.dtype == jnp.bfloat16
        assert jnp.linalg.norm(b.astype(jnp.float32) - a) < 0.01 * jnp.linalg.norm(a)


def test_no_array_is_as_large_as_the_square():
    """Of all arrays of the forward and the backward pass, in loops too."""
    length = 320

    def sizes(kernel):
        traced = jax.make_jaxpr(functools.partial(gradients, kernel, **PLAIN))
        jaxpr = traced(*inputs(length, heads=2, kv_heads=1), jnp.ones((2, length), jnp.int32)).jaxpr
        return max(
            x.aval.size for inner in all_jaxprs(jaxpr) for equation in inner.eqns for x in equation.outvars
        )

    assert sizes(attention.xla) >= 2 * 2 * length**2
    assert sizes(flash_attention.flash) <= 2 * 2 * length * 16


def all_jaxprs(jaxpr):
    """The jaxpr and those inside its equations."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from all_jaxprs(inner)


@pytest.mark.parametrize(
    ("masking", "pairs"),
    [
        (Masking(True, 0, 0.0), 20 * 21 // 2),
        (Masking(False, 0, 0.0), 20 * 20),
        (Masking(True, 16, 0.0), 1 + 19 * 2),  # a window costs the blocks that it reaches into
        (Masking(True, 33, 0.0), 1 + 2 + 18 * 3),
        (Masking(False, 17, 0.0), 2 + 18 * 3 + 2),
    ],
)
def test_blocks_that_the_mask_hides_are_not_visited(masking, pairs):
    i, j, first = flash_attention._Blocks((1, 320, 1, 8), 1).pairs(masking)
    assert len(i) == pairs
    assert first.sum() == 20 and (np.diff(i)[first[1:]] == 1).all()
    assert set(j) == set(range(20))


def test_saved_by_their_names_the_forward_pass_is_not_run_again():
    """The backward pass of a rematerialised layer has one scan where the names are saved, and else two."""
    arguments = (*inputs(64), jnp.ones((2, 64), jnp.int32))

    def scans(policy):
        layer = jax.checkpoint(
            lambda q, k, v: flash_attention.flash(q, k, v, arguments[3], **PLAIN), policy=policy
        )
        _, pull = jax.vjp(layer, *arguments[:3])
        jaxpr = jax.make_jaxpr(pull)(arguments[0])
        return str(jaxpr).count(" scan[")

    policies = jax.checkpoint_policies
    assert scans(policies.nothing_saveable) == 2
    assert scans(policies.save_only_these_names(*attention.SAVED)) == 1


def test_masks_of_all_blocks_are_never_held_where_it_is_computed_again(monkeypatch):
    monkeypatch.setattr(flash_attention, "BLOCK", 8)  # 4 blocks of queries, 10 pairs under a causal mask
    q, k, v = (jnp.ones((1, 32, heads, 8)) for heads in (2, 1, 1))
    segments = jnp.ones((1, 32), jnp.int32)

    @jax.checkpoint
    def layer(q, scale):
        return flash_attention.flash(scale * q, k, v, segments, **PLAIN), None

    text = str(jax.make_jaxpr(jax.grad(lambda q: jax.lax.scan(layer, q, jnp.ones(3))[0].sum()))(q))
    assert "bool[1,16,8]" in text and "bool[10," not in text
