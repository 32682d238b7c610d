"""Quantized kernels under adapters: their error, the layers' products, and the gradients of the adapters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.config import ConfigError, Lora
from jaxtrain.models import lora, quantized_weights
from tests import tiny

ARCH = tiny.shrink("llama3.1-8b", layers=2, width=64, ff=128)
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


@kinds
@pytest.mark.parametrize("dora", [False, True])
def test_adapters_over_codes_have_the_value_and_gradients_of_adapters_over_the_rounded_kernels(kind, dora):
    settings = Lora(lora_rank=3, lora_alpha=6.0, base_weights=kind, dora=dora)
    codes = quantized_weights.quantize(base(), MODEL.axes, kind)
    trained = lora.init(codes, jax.random.key(1), MODEL.axes, settings)
    trained = jax.tree.map(lambda x: x + 0.05, trained)
    batch = tiny.batch(2, 16, ARCH.vocab)

    @jax.jit
    @jax.value_and_grad
    def loss(trained, held):
        hidden = MODEL.hidden(lora.merge(held, trained, MODEL.axes, settings), batch)
        return jnp.square(hidden * jnp.arange(64) / 64).sum()

    (value, found), (wanted_value, wanted) = loss(trained, codes), loss(trained, base())
    assert value == pytest.approx(float(wanted_value), rel=1e-5)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert jnp.linalg.norm(one - other) <= 1e-4 * jnp.linalg.norm(other)


def test_bad_input_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"--base_weights=nf4: .*--lora_rank=16"):
        Lora(base_weights="nf4").check()
    with pytest.raises(ConfigError, match=r"mlp/down/kernel .* block of 64; use --base_weights=int8"):
        quantized_weights.quantized(
            jnp.zeros((1, 48, 32)), ("layers", "ff", "embed"), "nf4", "mlp/down/kernel"
        )
