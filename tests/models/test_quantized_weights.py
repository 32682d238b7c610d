"""Quantized kernels under adapters: their error, the layers' products, and the gradients of the adapters."""

import functools
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.config import ConfigError, Lora
from jaxtrain.models import lora, quantized_weights
from tests import tiny

ARCH = tiny.shrink("llama3.1-8b", layers=2, width=64, ff=128)
MIXTURE = tiny.shrink("olmoe-1b-7b", layers=2, width=64, expert_ff=64)
MODEL = tiny.model(ARCH)
kinds = pytest.mark.parametrize("kind", ["int8", "nf4"])


@functools.cache
def base():
    return jax.jit(MODEL.init)(jax.random.key(0))


@kinds
def test_a_kernels_error_is_bounded_by_half_a_step_of_its_scale(kind):
    kernel = base()["layers"]["mlp"]["down"]["kernel"]
    held = quantized_weights.quantized(kernel, ("layers", "ff", "embed"), kind)
    found = quantized_weights.dequantized(held, jnp.float32)
    assert found.shape == kernel.shape == quantized_weights.shape(held)
    error = float(jnp.linalg.norm(found - kernel) / jnp.linalg.norm(kernel))
    assert error < {"int8": 0.008, "nf4": 0.1}[kind]
    if kind == "int8":
        assert (jnp.abs(found - kernel) <= 0.501 * held["scale"]).all()
    else:
        widest = max(np.diff(quantized_weights.LEVELS)) / 2
        assert (jnp.abs(found - kernel) <= 1.001 * widest * jnp.repeat(held["scale"], 64, 1)).all()
        assert sum(x.nbytes for x in held.values()) == kernel.size * (4 + 32 / 64) / 8
    assert quantized_weights.count(quantized_weights.quantize(base(), MODEL.axes, kind)) == sum(
        x.size for x in jax.tree.leaves(base())
    )


def test_the_levels_of_nf4_are_quantiles_of_a_normal_distribution():
    """Of 8 equal steps of probability from 1 - δ to 1/2 and of 7 on the other side, δ = (1/32 + 1/30) / 2."""
    most = 1 - (1 / 32 + 1 / 30) / 2
    low = [NormalDist().inv_cdf(1 - p) for p in np.linspace(most, 0.5, 8)[:-1]]
    high = [NormalDist().inv_cdf(p) for p in np.linspace(most, 0.5, 9)[:-1]]
    wanted = np.sort([*low, 0.0, *high]) / max(high)
    np.testing.assert_allclose(quantized_weights.LEVELS, wanted, atol=1e-6)


# A kernel whose inputs are blocked, one whose last input axis is, and one that has blocks along its outputs alone.
SHAPES = {
    ("layers", "embed", "ff"): (2, 128, 12),
    ("heads", "head", "embed"): (3, 64, 24),
    ("embed", "heads", "head"): (24, 2, 64),
}


@kinds
@pytest.mark.parametrize("names", SHAPES)
def test_codes_and_scales_stand_for_the_nearest_values_in_float64(kind, names):
    """Read here by hand: two codes a byte, the lower four bits first; every code is the nearest one."""
    kernel = np.random.default_rng(3).normal(size=SHAPES[names]).astype(np.float32)
    kernel[0, :64] = 0  # a block without any value but 0
    held = {
        k: np.asarray(x) for k, x in quantized_weights.quantized(jnp.asarray(kernel), names, kind).items()
    }
    axis = {("heads", "head", "embed"): 1, ("embed", "heads", "head"): 2}.get(names, 1)
    if kind == "int8":
        reads = {("layers", "embed", "ff"): (1,), ("heads", "head", "embed"): (0, 1)}.get(names, (0,))
        scale = np.abs(kernel.astype(np.float64)).max(reads, keepdims=True) / 127
        values, levels = held["int8"].astype(np.float64), np.arange(-127, 128)
        assert held["scale"].shape == scale.shape and held["int8"].dtype == np.int8
    else:
        codes = np.moveaxis(held["nf4"], axis, 0)
        codes = np.stack([codes & 15, codes >> 4], 1).reshape(-1, *codes.shape[1:])
        levels = np.array(quantized_weights.LEVELS)
        values = np.moveaxis(levels[codes], 0, axis)
        blocks = np.moveaxis(np.abs(kernel.astype(np.float64)), axis, 0)
        scale = blocks.reshape(-1, 64, *blocks.shape[1:]).max(1)
        scale = np.moveaxis(np.repeat(scale, 64, 0), 0, axis)
        assert held["nf4"].nbytes == kernel.size // 2 and held["nf4"].dtype == np.uint8
    found = np.asarray(quantized_weights.dequantized(held, jnp.float32))
    np.testing.assert_allclose(found, values * scale, rtol=1e-6, atol=1e-9)
    nearest = np.abs(kernel[..., None] - levels * scale[..., None]).min(-1)
    np.testing.assert_allclose(np.abs(kernel - values * scale), nearest, atol=1e-6)


@kinds
@pytest.mark.parametrize(
    ("arch", "dora"), [(ARCH, False), (ARCH, True), (MIXTURE, True)], ids=["lora", "dora", "experts"]
)
def test_adapters_over_codes_have_the_value_and_gradients_of_adapters_over_the_rounded_kernels(
    kind, dora, arch
):
    settings = Lora(lora_rank=3, lora_alpha=6.0, base_weights=kind, dora=dora)
    model = tiny.model(arch)
    base = jax.jit(model.init)(jax.random.key(0))
    codes = quantized_weights.quantize(base, model.axes, kind)
    trained = lora.init(codes, jax.random.key(1), model.axes, settings)
    trained = jax.tree.map(lambda x: x + 0.05, trained)
    batch = tiny.batch(2, 16, arch.vocab)

    @jax.jit
    @jax.value_and_grad
    def loss(trained, held):
        hidden = model.hidden(lora.merge(held, trained, model.axes, settings), batch)
        return jnp.square(hidden * jnp.arange(64) / 64).sum()

    (value, found), (wanted_value, wanted) = loss(trained, codes), loss(trained, base)
    assert value == pytest.approx(float(wanted_value), rel=1e-5)
    least = 1e-6 * optax.tree.norm(wanted)  # queries and keys of a first layer have next to no gradient
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert jnp.linalg.norm(one - other) <= 1e-4 * jnp.linalg.norm(other) + least


def test_bad_input_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"--base_weights=nf4: .*--lora_rank=16"):
        Lora(base_weights="nf4").check()
    with pytest.raises(ConfigError, match=r"mlp/down/kernel .* block of 64; use --base_weights=int8"):
        quantized_weights.quantized(
            jnp.zeros((1, 48, 32)), ("layers", "ff", "embed"), "nf4", "mlp/down/kernel"
        )


@kinds
def test_what_a_layer_decodes_is_what_it_trains_and_routers_are_as_they_were(kind):
    """Prefill and decode on quantized kernels, adapters beside them, laid out for sampling."""
    settings = Lora(lora_rank=2, lora_targets="attention,mlp/up", base_weights=kind, dora=kind == "nf4")
    model = tiny.model(MIXTURE)
    base = jax.jit(model.init)(jax.random.key(0))
    codes = quantized_weights.quantize(base, model.axes, kind)
    assert codes["layers"]["mlp"]["router"]["kernel"] is base["layers"]["mlp"]["router"]["kernel"]
    trained = jax.tree.map(lambda x: x + 0.05, lora.init(codes, jax.random.key(1), model.axes, settings))
    batch = tiny.batch(2, 9, MIXTURE.vocab, packed=False)
    tokens = jnp.asarray(batch["tokens"])

    @jax.jit
    def decoded(codes, trained):
        ready = model.ready(lora.merge(codes, trained, model.axes, settings))
        first, cache = model.decode(ready, tokens[:, :6], None, model.cache(2, 9))
        out = [first]
        for at in range(6, 9):
            hidden, cache = model.decode(ready, tokens[:, at : at + 1], jnp.full((2, 1), at), cache)
            out.append(hidden)
        return jnp.concatenate(out, 1)

    merge = jax.jit(lambda base, trained: lora.merge(base, trained, model.axes, settings))
    whole = merge(base, trained)
    plain = quantized_weights.unquantized(merge(codes, trained), model.axes)
    assert whole["layers"]["mlp"]["up"]["kernel"].dtype == jnp.float32
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), plain, whole)
    np.testing.assert_allclose(decoded(codes, trained), jax.jit(model.hidden)(whole, batch), atol=1e-4)


def test_the_backward_pass_does_not_keep_dequantized_kernels(optimized):
    """Of 8 scanned layers: far less than all kernels in float32, and no arrays of constants either."""
    arch = tiny.shrink("llama3.1-8b", layers=8, width=256, ff=1024, heads=4, head_width=64)
    model, settings = tiny.model(arch, scan=True), Lora(lora_rank=1, base_weights="nf4")
    base = jax.eval_shape(model.init, jax.random.key(0))
    codes = jax.eval_shape(functools.partial(quantized_weights.quantize, axes=model.axes, kind="nf4"), base)
    trained = jax.eval_shape(lambda base: lora.init(base, jax.random.key(1), model.axes, settings), base)
    batch = tiny.batch(1, 16, arch.vocab)

    def memory(held):
        def loss(trained, held):
            return jnp.square(model.hidden(lora.merge(held, trained, model.axes, settings), batch)).sum()

        done = jax.jit(jax.grad(loss)).lower(trained, held).compile()
        return done.memory_analysis().temp_size_in_bytes

    kernels = 4 * (quantized_weights.count(codes) - arch.vocab * arch.width)
    assert memory(codes) < kernels / 2
