"""Continuous batching of many prompts gives what fixed batches give, in the order of the requests."""

import functools

import jax
import numpy as np
import pytest

from jaxtrain import config
from jaxtrain.config import ConfigError
from jaxtrain.generate import batch_sampler, continuous_sampler, engine
from jaxtrain.models import transformer
from jaxtrain.train import parallel
from tests import tiny
from tests.generate.test_batch_sampler import ARCH, CONTEXT, END, NEW, REQUESTS, sample


@functools.cache
def engine_and_params():
    plan = parallel.make(config.Run(), jax.devices()[:1])
    model = transformer.build(ARCH, tiny.how(local=plan.local))
    slots = continuous_sampler.cache_slots(CONTEXT, NEW)
    built = engine.build_engine(plan, model, ends=(END,), max_new=NEW, slots=slots, max_steps=2)
    return built, built.ready(plan.init(lambda: model.init(jax.random.key(0)), model.axes), ())


def continuously(requests, rows, **options):
    return continuous_sampler.sample(
        *engine_and_params(), requests, context=CONTEXT, rows=rows, chunk=2, **options
    )


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_completions_are_those_of_fixed_batches_in_their_order(rows):
    for one, other in zip(continuously(REQUESTS, rows), sample(), strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.logps, other.logps, rtol=1e-4, atol=1e-5)


def test_the_limits_are_those_of_fixed_batches():
    full = [REQUESTS[0]._replace(ids=[1] * CONTEXT)]
    with pytest.raises(ConfigError, match=f"prompt 0 has {CONTEXT} tokens, which leaves no room"):
        continuously(full, 2)
    assert batch_sampler.token_limits(engine_and_params()[0], REQUESTS, CONTEXT).tolist() == [4, 5, 4, 5, 4]
    assert continuous_sampler.cache_slots(17, 6) == 38


def test_prompts_of_a_bucket_are_taken_one_after_the_other(monkeypatch):
    taken = []
    parts = continuous_sampler.continuous_batching.completions

    def recorded(engine, params, requests, **options):
        requests = list(requests)
        taken.extend(len(one.ids) for one in requests)
        return parts(engine, params, requests, **options)

    monkeypatch.setattr(continuous_sampler.continuous_batching, "completions", recorded)
    continuously([REQUESTS[4], *REQUESTS[:2]], 2)
    assert taken == [4, 4, 1, 1, 20, 20]
