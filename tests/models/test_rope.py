"""Frequencies by hand, and those that follow from the context where it must be known before it is that long."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from jaxtrain.config import ConfigError
from jaxtrain.generate import sampler
from jaxtrain.models import rope
from jaxtrain.models.zoo import Arch
from jaxtrain.ops.logprobs import logits
from tests import tiny
from tests.generate.sampling import sample_fn

# Heads of 8: frequencies 1, 1/10, 1/100 and 1/1000 of a radian.
ARCH = Arch(1, 16, 2, 16, vocab=64)


def frequencies(context=1, scaled=True, **changes):
    return rope.frequencies(dataclasses.replace(ARCH, **changes), 1e4, scaled, context)


def test_frequencies_by_hand():
    plain, factor = frequencies()
    np.testing.assert_allclose(plain, [1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert plain.dtype == np.float32 and factor == 1.0
    np.testing.assert_allclose(frequencies(rope_width=4)[0], [1, 0.01], rtol=1e-6)
    np.testing.assert_allclose(frequencies(rope_scaling=(4.0,))[0], plain / 4, rtol=1e-6)
    np.testing.assert_array_equal(frequencies(rope_scaling=(4.0,), scaled=False)[0], plain)


def test_llama_3_divides_long_waves_alone():
    """Waves of 6.28, 62.8, 628 and 6283 tokens: below 100 / 4, between, and above 100 / 1."""
    found, factor = frequencies(rope_scaling=(8.0, 1.0, 4.0, 100))
    keep = (100 * 0.1 / (2 * math.pi) - 1) / 3
    np.testing.assert_allclose(found, [1, keep * 0.1 + (1 - keep) * 0.1 / 8, 0.01 / 8, 0.001 / 8], rtol=1e-6)
    assert factor == 1.0


def test_yarn_divides_by_the_turns_in_the_original_length():
    """1000 / 2π turns of the first in 1000 tokens: dimension i turns 159 · 10^-i times, once at i = log10 159."""
    once, four = math.log10(1000 / (2 * math.pi)), math.log10(1000 / (8 * math.pi))  # 2.2 and 1.6
    found, factor = frequencies(rope_scaling=(5.0, 4.0, 1.0, 1000, 1.16, 0))
    share = (2 - four) / (once - four)
    np.testing.assert_allclose(found, [1, 0.1, (1 - share) * 0.01 + share * 0.002, 0.0002], rtol=1e-6)
    assert factor == 1.16
    found, _ = frequencies(rope_scaling=(5.0, 4.0, 1.0, 1000, 1.16, 1))  # the ramp goes from 1 to 3
    np.testing.assert_allclose(found, [1, 0.1, 0.5 * 0.01 + 0.5 * 0.002, 0.0002], rtol=1e-6)


def test_longrope_has_a_table_for_long_contexts_and_one_for_short_ones():
    settings = {"rope_scaling": (100, 1.2), "rope_factors": (1.0, 1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 8.0)}
    short, factor = frequencies(context=100, **settings)
    np.testing.assert_allclose(short, [1, 0.1, 0.005, 0.00025], rtol=1e-6)
    np.testing.assert_allclose(
        frequencies(context=101, **settings)[0], [1, 0.05, 0.0025, 0.000125], rtol=1e-6
    )
    assert factor == 1.2


def test_dynamic_scaling_raises_theta_with_the_context():
    """Twice the original length under a factor of 3: 3 · 2 - 2 = 4 times, to the power of 8 / 6."""
    plain, _ = frequencies()
    settings = {"rope_scaling": (3.0, 100)}
    for context in (1, 99, 100):
        np.testing.assert_array_equal(frequencies(context=context, **settings)[0], plain)
    found, factor = frequencies(context=200, **settings)
    theta = 1e4 * 4 ** (8 / 6)
    np.testing.assert_allclose(found, [theta ** (-i / 4) for i in range(4)], rtol=1e-6)
    assert factor == 1.0
    np.testing.assert_array_equal(frequencies(context=200, scaled=False, **settings)[0], plain)
    theta = 1e4 * (3 * 1.01 - 2) ** (4 / 2)
    half, _ = frequencies(context=101, rope_width=4, **settings)
    np.testing.assert_allclose(half, [1, theta**-0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_scaling": (1.0, 2.0, 3.0)}, "rope_scaling takes"),
        ({"rope_scaling": (2.0, 16), "rope_width": 2}, "even head or rope_width, not 2"),
        ({"rope_scaling": (1.0,), "rope_factors": (1.0,) * 8}, "rope_scaling takes"),
        ({"rope_scaling": (1.0, 2.0), "rope_factors": (1.0,) * 7}, "rope_factors takes 8 numbers, not 7"),
        ({"rope_width": 3}, "even head or rope_width, not 3"),
        ({"rope_width": 10}, "even head or rope_width, not 10"),
    ],
)
def test_a_scaling_of_another_length_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(ARCH, **changes)


@pytest.mark.parametrize(
    "arch",
    [tiny.shrink("phi4-mini", layers=2), tiny.shrink("llama2-7b", layers=2, rope_scaling=(4.0, 10))],
    ids=["longrope", "dynamic"],
)
def test_a_sampler_knows_from_the_prompt_on_that_the_context_will_be_long(arch):
    """8 tokens of prompt are below the original length of 10, the 20 slots of the KV cache above."""
    model = tiny.model(arch)
    params = model.init(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(0, arch.vocab, (2, 8)).astype(np.int32)
    sample = jax.jit(sample_fn(model, max_new=12, ends=(), temperature=1.0))
    done = sample(params, None, sampler.prompt_batch(prompts, 0, bucket=8))
    tokens = np.concatenate([prompts, done.tokens], 1)
    batch = {"tokens": tokens, "positions": np.tile(np.arange(20), (2, 1)), "segments": np.ones_like(tokens)}
    logps = jax.nn.log_softmax(logits(model.hidden(params, batch), model.head(params)))
    wanted = np.take_along_axis(logps[:, 7:-1], tokens[:, 8:, None], -1)[..., 0]
    np.testing.assert_allclose(done.logps, wanted, atol=1e-4)
