"""Products in int8 and fp8 against float64: codes and scales, errors, and what no token may see of another."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxtrain.ops import quantized_matmul
from jaxtrain.ops.quantized_matmul import matmul, matmul_with_codes, rounded

kinds = pytest.mark.parametrize("kind", ["int8", "fp8"])
E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
N, I, O = 48, 64, 40  # noqa: E741


def values(dtype):
    """All finite values of an 8-bit type, in float64, sorted."""
    if dtype == np.int8:
        return np.arange(-127, 128).astype(np.float64)
    every = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
    return np.unique(every[np.isfinite(every)])


def nearest(x, axis, dtype):
    """(the value nearest to each x / scale, scales) in float64, by looking at all values of the type."""
    x, every = np.asarray(x, np.float64), values(dtype)
    scale = np.abs(x).max(axis, keepdims=True) / every[-1]
    if dtype != np.int8:
        scale = 2.0 ** np.ceil(np.log2(scale))
    return every[np.abs((x / scale)[..., None] - every).argmin(-1)], scale


def operands(seed=0):
    """Tokens, a kernel and a gradient; tokens and outputs are of several magnitudes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, I)) * np.exp(2 * rng.normal(size=(N, 1)))
    w = 0.05 * rng.normal(size=(I, O)) * np.exp(rng.normal(size=(1, O)))
    g = rng.normal(size=(N, O)) * np.exp(3 * rng.normal(size=(N, 1)))
    return tuple(each.astype(np.float32) for each in (x, w, g))


def computed(x, w, g, kind, dtype=jnp.float32):
    """(Y, ∂X, ∂W) of ours."""
    y, back = jax.vjp(lambda x, w: matmul(x, w, kind), jnp.asarray(x, dtype), jnp.asarray(w))
    dx, dw = back(jnp.asarray(g, dtype))
    assert y.dtype == dx.dtype == dtype and dw.dtype == jnp.float32
    return y, dx, dw


def error(found, wanted):
    return np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("dtype", [np.int8, E4M3, E5M2])
@pytest.mark.parametrize("axis", [0, 1])
def test_codes_are_the_nearest_values_and_float_scales_powers_of_two(dtype, axis):
    x = operands()[0]
    x[3], x[:, 5] = 0, 0
    codes, scale = map(np.asarray, rounded(jnp.asarray(x), (axis,), jnp.dtype(dtype)))
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted, scales = nearest(x, axis, dtype)
    assert codes.dtype == dtype and (np.abs(codes.astype(np.float64)) <= values(dtype)[-1]).all()
    zero = scales == 0
    assert (scale[zero] == 0).all() and zero.sum() == 1 and (codes[x == 0] == 0).all()
    if dtype == np.int8:
        np.testing.assert_allclose(scale, scales, rtol=1e-7)
    else:
        assert (np.frexp(scale[~zero])[0] == 0.5).all() and np.array_equal(scale, scales)
    off = np.abs(codes.astype(np.float64) - wanted) * ~zero
    assert (off > 0).mean() < 0.002  # ties, and quotients in float32 beside one


@kinds
def test_products_are_those_of_the_codes_in_float64(kind):
    x, w, g = operands()
    code, of_gradient = (np.int8, np.int8) if kind == "int8" else (E4M3, E5M2)
    (a, s), (b, sigma) = nearest(x, 1, code), nearest(w, 0, code)
    ghat, t = nearest(g * sigma, 1, of_gradient)
    wanted = [s * (a @ b) * sigma, t * (ghat @ b.T)]
    if kind == "int8":
        wanted.append(np.float64(x).T @ np.float64(g))
    else:
        ghat, t = nearest(g * s, None, of_gradient)
        wanted.append(t * (a.T @ ghat))
    for found, right in zip(computed(x, w, g, kind), wanted, strict=True):
        assert error(found, right) < 1e-3  # a code of several thousand may stand one step beside
    for found, right in zip(computed(x, w, g, kind, jnp.bfloat16), wanted, strict=True):
        assert (
            error(found, right) < 0.03 if kind == "fp8" else 0.01
        )  # operands were rounded to bfloat16 before


@kinds
def test_errors_are_bounded_beside_float64(kind):
    """int8's are steps of 1 / 127 of a token's largest; fp8's 2⁻⁴ of each E4M3 at most, and 2⁻³ of each E5M2."""
    x, w, g = operands(1)
    exact = np.float64(x) @ w, np.float64(g) @ w.T, np.float64(x).T @ g
    most = {"int8": (0.012, 0.015, 1e-6), "fp8": (0.045, 0.07, 0.07)}[kind]
    for found, right, bound in zip(computed(x, w, g, kind), exact, most, strict=True):
        assert error(found, right) < bound
        assert kind == "int8" or error(found, right) > bound / 4  # these are no products in float32


@kinds
def test_a_token_sees_no_other_token(kind):
    """Neither forward nor in its own gradient, to the bit, whatever stands in the others, NaN included."""
    x, w, g = operands(2)
    y, dx, _ = computed(x, w, g, kind)
    others = x.copy(), w, g.copy()
    others[0][10], others[0][11], others[0][12], others[2][10] = 1e6, 0, np.nan, -1e8
    y2, dx2, dw = computed(*others, kind)
    still = np.delete(np.arange(N), [10, 11, 12])
    assert np.array_equal(y[still], y2[still]) and np.array_equal(dx[still], dx2[still])
    assert np.isnan(y2[12]).all() and (y2[11] == 0).all() and np.isnan(dw).any()
    alone = computed(x[:1], w, g[:1], kind)
    assert np.array_equal(alone[0][0], y[0]) and np.array_equal(alone[1][0], dx[0])


@kinds
def test_what_is_not_finite_stays_so(kind):
    """Or a step would be applied that has to be skipped: of a kernel the result, and so the loss."""
    for bad in (np.nan, np.inf):
        for which in range(3):
            made = operands(3)
            made[which][0, 0] = bad
            y, dx, dw = computed(*made, kind)
            assert np.isfinite(dw).all() == (which == 1)
            assert np.isfinite(y).all() == (which == 2)
            assert np.isfinite(dx).all() == (which == 0)


@kinds
def test_the_gradient_of_a_kernel_is_a_sum_over_tokens(kind):
    """Of parts of a batch whose gradients are of other magnitudes. Tokens without a gradient have no part in it."""
    x, w, g = operands(4)
    g *= np.repeat([1e-4, 1.0, 30.0, 1e3], N // 4)[:, None].astype(np.float32)
    whole = np.asarray(computed(x, w, g, kind)[2], np.float64)
    parts = sum(
        np.asarray(computed(*(np.split(each, 4)[i] if each is not w else w for each in (x, w, g)), kind)[2])
        for i in range(4)
    )
    assert error(parts, whole) < 1e-6
    g[::3] = 0
    garbage = x.copy()
    garbage[::3] = 1e5 * np.random.default_rng(5).normal(size=garbage[::3].shape)
    assert np.array_equal(computed(x, w, g, kind)[2], computed(garbage, w, g, kind)[2])


@kinds
def test_codes_of_a_kernel_serve_as_the_kernel_does(kind):
    x, w, g = operands(6)
    y, dx, _ = computed(x, w, g, kind)
    held = rounded(jnp.asarray(w), (0,), quantized_matmul.CODES[kind])
    found, back = jax.vjp(lambda x: matmul_with_codes(x, held, kind), jnp.asarray(x))
    assert np.array_equal(found, y) and np.array_equal(back(jnp.asarray(g))[0], dx)


@kinds
@pytest.mark.parametrize("shape", [(I, 4, 10), (8, 8, O), (8, 8, 4, 10)])
def test_axes_of_a_kernel_may_be_several(kind, shape):
    x, w, g = operands(8)
    wanted = computed(x, w, g, kind)
    found = computed(x, w.reshape(shape), g, kind)
    assert found[2].shape == shape
    assert all(np.array_equal(a.reshape(b.shape), b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@kinds
def test_the_program_has_products_of_8_bits(kind, dtype):
    x, w, g = (jnp.asarray(each) for each in operands())

    def products(x, w, g):
        y, back = jax.vjp(lambda x, w: matmul(x, w, kind), x, w)
        return y, back(g)

    text = jax.jit(products).lower(x.astype(dtype), w, g.astype(dtype)).as_text()
    found = re.findall(
        r"dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\) -> tensor<[\dx]*x(\w+)>", text
    )
    full = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    if kind == "int8":
        assert sorted(found) == sorted([("i8", "i8", "i32"), ("i8", "i8", "i32"), (full, full, full)])
    else:
        e4m3, e5m2 = "f8E4M3FN", "f8E5M2"
        assert sorted(found) == sorted([(e4m3, e4m3, full), (e5m2, e4m3, full), (e4m3, e5m2, full)])
