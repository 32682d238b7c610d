"""Log-probabilities of prompts by the decode path, against the forward pass of training."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.generate.prompt_logprobs import CHUNK, prompt_scorer
from jaxtrain.models import transformer
from jaxtrain.ops.logprobs import logits
from jaxtrain.train import parallel
from tests import tiny

ARCH = dataclasses.replace(tiny.shrink("llama2-7b", layers=2, vocab=64), max_len=0)


LENGTHS = (1, 7, CHUNK + 20)


def log_probabilities(forward, params, ids):
    """f32[T - 1, V]: those of the training forward. Rows are padded, so that one program has all lengths."""
    row = np.zeros((1, max(LENGTHS)), np.int32)
    row[0, : len(ids)] = ids
    places = np.arange(row.size, dtype=np.int32)[None]
    batch = {"tokens": row, "positions": places, "segments": (places < len(ids)).astype(np.int32)}
    return np.asarray(forward(params, batch)[0])[: len(ids) - 1]


@pytest.mark.parametrize("devices", [1, 2])
def test_each_token_has_the_log_probability_of_the_forward_pass(devices):
    plan = parallel.make(config.Run(parallel="mesh"), jax.devices()[:devices])
    lm = transformer.build(ARCH, tiny.how())
    params = plan.init(lambda: lm.init(jax.random.key(0)), lm.axes)
    score = prompt_scorer(plan, lm, 3, 256)
    forward = jax.jit(lambda tree, batch: jax.nn.log_softmax(logits(lm.hidden(tree, batch), lm.head(tree))))
    for n in LENGTHS:
        ids = np.random.default_rng(n).integers(0, 64, n)
        wanted = log_probabilities(forward, params, ids)
        scores = score(params, ids.tolist())
        np.testing.assert_allclose(scores.token_logps, wanted[np.arange(n - 1), ids[1:]], atol=1e-4)
        np.testing.assert_allclose(scores.logps, -np.sort(-wanted)[:, :3], atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(wanted, scores.ids, 1), scores.logps, atol=1e-4)
