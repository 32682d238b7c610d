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


@pytest.mark.parametrize("devices", [1, 2])
def test_each_token_has_the_log_probability_of_the_forward_pass(devices):
    plan = parallel.make(config.Run(parallel="mesh"), jax.devices()[:devices])
    lm = transformer.build(ARCH, tiny.how())
    params = plan.init(lambda: lm.init(jax.random.key(0)), lm.axes)
    score = prompt_scorer(plan, lm, params, 3, 256)
    for n in (1, 7, CHUNK + 20):
        ids = np.random.default_rng(n).integers(0, 64, n)
        places = np.arange(n, dtype=np.int32)[None]
        batch = {"tokens": ids[None].astype(np.int32), "positions": places, "segments": np.ones_like(places)}
        wanted = np.asarray(jax.nn.log_softmax(logits(lm.hidden(params, batch), lm.head(params)))[0])[:-1]
        scores = score(ids.tolist())
        np.testing.assert_allclose(scores.token_logps, wanted[np.arange(n - 1), ids[1:]], atol=1e-4)
        np.testing.assert_allclose(scores.logps, -np.sort(-wanted)[:, :3], atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(wanted, scores.ids, 1), scores.logps, atol=1e-4)
