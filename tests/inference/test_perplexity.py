"""Texts scored by a run: the same bits as the run's own evaluation, and good text before junk."""

import numpy as np
import pytest

from tests.runs import column


@pytest.fixture(scope="module")
def score(town):
    from jaxtrain.inference import perplexity

    return perplexity.bits_per_byte(str(town / "base"))


def test_bits_a_byte_are_those_that_the_tokens_have(town, score):
    import jax.numpy as jnp

    from jaxtrain import config
    from jaxtrain.models import transformer
    from jaxtrain.ops.logprobs import logits
    from jaxtrain.stages import init_from, weights
    from jaxtrain.train import parallel

    start = init_from.load_run(str(town / "base"))
    plan = parallel.make(config.Run())
    model = transformer.build(start.arch, transformer.execution(config.Model(), plan.platform, plan.local))
    params = weights.load_params(plan, start, model, 0)
    text = "Q: How do I wash a bike?\nA: Just wipe the bike."
    ids = np.array([start.tokenizer.bos, *start.tokenizer.encode([text])[0], start.tokenizer.eos])
    cache = model.cache(1, len(ids))
    hidden, _ = model.decode(params, jnp.array(ids[None, :-1]), jnp.arange(len(ids) - 1)[None], cache)
    x = np.asarray(logits(hidden, model.head(params))[0], np.float64)
    logps = x - np.log(np.exp(x).sum(-1, keepdims=True))
    wanted = -logps[np.arange(len(ids) - 1), ids[1:]].sum() / np.log(2) / len(text.encode())
    assert score(text) == pytest.approx(wanted, rel=1e-4)


def test_good_text_has_fewer_bits_than_junk_and_a_long_one_is_read_in_parts(town, score):
    good = "Q: How do I wash a bike?\nA: Just wipe the bike."
    junk = "".join(np.random.default_rng(0).permutation(list(good)))
    assert score(good) < 0.8 * score(junk)
    assert np.isfinite(score(good * 60)) and np.isfinite(score(""))
    assert 0.3 * score(good) < column(town / "base", "eval/bits_per_byte")[-1] < 3 * score(good)
