"""Log-probabilities that the sampler gives with its tokens, against those of the training forward, by architecture."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtrain.generate import sampler
from jaxtrain.models import attention, transformer
from jaxtrain.ops.logprobs import token_stats
from tests import tiny
from tests.generate.sampling import sample_fn

NEW = 24
PROMPTS = [np.random.default_rng(n).integers(0, 64, n).tolist() for n in (9, 4, 1)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that short rows are several blocks of queries."""
    monkeypatch.setattr(attention, "BLOCK", 10)


def differences(arch, dtype):
    """f32[rows, NEW]: the trainer's log-probability of each sampled token, less the sampler's."""
    model = transformer.build(arch, tiny.how(dtype=dtype))
    params = model.init(jax.random.key(0))
    sampled = jax.jit(sample_fn(model, max_new=NEW, ends=()))(params, (), sampler.prompt_batch(PROMPTS, 0))
    rows = np.zeros((len(PROMPTS), 1 + max(map(len, PROMPTS)) + NEW), np.int32)
    for row, prompt, new in zip(rows, PROMPTS, sampled.tokens, strict=True):
        row[: len(prompt) + NEW] = [*prompt, *new]
    places = np.broadcast_to(np.arange(rows.shape[1] - 1, dtype=np.int32), rows[:, 1:].shape)
    batch = {"tokens": rows[:, :-1], "positions": places, "segments": np.ones_like(places)}
    stats = jax.jit(lambda params: token_stats(model.hidden(params, batch), model.head(params), rows[:, 1:]))(
        params
    )
    trained = [logps[len(prompt) - 1 :][:NEW] for logps, prompt in zip(stats["logps"], PROMPTS, strict=True)]
    return np.asarray(trained) - np.asarray(sampled.logps)


@pytest.mark.parametrize(
    "name", tiny.covering()
)  # completions of all are in tests/models/test_hf_transformers.py
def test_the_sampler_gives_the_trainer_s_log_probabilities(name):
    """Nats a token. Not to the bit: a product of one row and one of many add their terms in other orders.

    Where such a difference makes a bfloat16 round the other way, one token's is larger.
    """
    arch = dataclasses.replace(tiny.shrink(name, layers=2), init_std=0.1)
    exact = differences(arch, "float32")
    assert abs(exact).max() < 5e-6
    rounded = differences(arch, "bfloat16")
    assert abs(rounded).mean() < 1e-3 and abs(rounded).max() < 2e-2
